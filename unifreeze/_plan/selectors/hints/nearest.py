"""What was probably meant by a path that matches nothing; every hint selects something."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from math import inf
from typing import NamedTuple

from unifreeze._plan.selectors.expression import Both, Expression, Path, Segment, Without, Word
from unifreeze._plan.selectors.hints.aligned_paths import (
    WRAPPERS,
    alignments,
    is_long,
    unlike,
)
from unifreeze._plan.selectors.hints.numbers import (
    Count,
    joined_numbers,
    module_of,
    nothing_in,
    number_guesses,
    numbered,
    past_the_end,
    units_of,
)
from unifreeze._plan.selectors.hints.signs import plain
from unifreeze._plan.selectors.hints.synonyms import meant_by, never_selected
from unifreeze._plan.selectors.vocabulary import INDEXED, NEEDS_INDEX, OLD_WORDS, WORDS
from unifreeze._structure import ModelSpec
from unifreeze.errors import UnmatchedSelectorError, counted, cut, listing, quoted

_MOST = 3
_SAME_MODULE = 0.25
"""The cost up to which a written path is a module's path with only its beginning left out."""
_PLAIN = frozenset(WORDS) - INDEXED - OLD_WORDS.keys() | {"query | key | value"}


class Meant(NamedTuple):
    """A selector that may have been meant.

    Attributes:
        cost: How far it is from what was written.
        text: The selector.
    """

    cost: float
    text: str


def unmatched_path(path: Path, spec: ModelSpec, count: Count) -> UnmatchedSelectorError:
    """Build the error for a path that is not in the model, with what it may have meant."""
    if is_long(str(path)):
        return UnmatchedSelectorError(
            f"{cut(str(path), 120)!r} matches none of {counted(len(spec), 'parameter')}",
            context=top_level(spec),
        )
    written = Path(tuple(Segment(plain(part.name), part.index) for part in path.segments))
    guesses = sorted(_guesses(written, spec), key=lambda guess: guess.cost)
    if written.segments != path.segments:
        guesses.insert(0, Meant(0.0, str(written)))
    near = [guess.text for guess in guesses if guess.cost <= guesses[0].cost + 0.1]
    by_number = list(number_guesses(written, spec, count))
    if by_number and "[" not in by_number[0]:
        near = [*by_number, *near]  # a module has that number in its name
    words = [text for text in _below(written, spec, count, sure=len(near) == 1) if count(text)]
    words = words or list(_in_words(written))
    # If several paths are possible, the words stand first, because they name all of them at once.
    first = len(near) > 1 and len(written.segments) > 1 and not by_number
    hint = _did_you_mean([*words, *near] if first else [*near, *words, *by_number], count)
    if hint and any(text.endswith(f".{path}") for text in near):
        hint += " Paths start at the root."
    if hint and (unit := numbered(written)) and unit.named and "[" in hint:
        hint += " Positions begin at 0."
    empty, meant = nothing_in(path, spec)
    if not empty or not count(str(Path(tuple(Segment(part.name) for part in written.segments)))):
        empty = meant = ""
    return UnmatchedSelectorError(
        f"{cut(str(path), 120)!r} matches none of {counted(len(spec), 'parameter')}",
        context="\n".join(filter(None, [empty, top_level(spec)])),
        hint=meant or hint or _without_a_guess(written, spec, count),
    )


def unmatched_module(place: str, spec: ModelSpec) -> UnmatchedSelectorError:
    """Build the error for a submodule that the model does not have."""
    path = Path(tuple(map(Segment, place.split("."))))
    texts = [aligned.text for aligned in alignments(path, spec, modules=True)]
    near = [text for text in texts if text in spec.tree.paths]
    hint = f'did you mean "in {near[0]}"?' if near else _holds(path, spec)
    if place in WORDS and not near:
        hint = f"after `in` stands a module's path; for what is in both, write … & {place}"
    return UnmatchedSelectorError(
        f"{cut(place, 120)!r} is not a module of the model", context=top_level(spec), hint=hint
    )


def top_level(spec: ModelSpec) -> str:
    """List the names that the model's paths begin with."""
    return f"top-level names: {listing(_top(spec), limit=12)}"


def _top(spec: ModelSpec) -> list[str]:
    return [spec.tree.paths[child] for child in spec.tree.children(0)]


def explain_nothing(expression: Expression, spec: ModelSpec, count: Count) -> str:
    """Say why an expression selects nothing though each of its parts is known."""
    if isinstance(expression, Word) and expression.name in ("adapter", "lora"):
        return "the model has no adapters (LoRA and kin): apply the plan after they are added"
    if empty := nothing_in(expression, spec)[0]:
        return empty
    if isinstance(expression, Path):
        return f"{expression} holds no parameters"
    if isinstance(expression, Word):
        none = f"{expression.name!r} is {WORDS[expression.name]}, and this model has none"
        named = spec.module(expression.name) is not None
        return f'{none}; the module of that name is path:"{expression.name}"' if named else none
    if isinstance(expression, Both | Without):
        left, right = str(expression.left), str(expression.right)
        how = "no parameter is in both" if isinstance(expression, Both) else "none is left"
        return f"{left}: {counted(count(left), 'parameter')}; {right}: {count(right)}; {how}"
    return ""


def _guesses(path: Path, spec: ModelSpec) -> Iterator[Meant]:
    """Yield what a path may have meant, each with its cost."""
    if len(path.segments) == 1:
        first = path.segments[0]
        index = "" if first.index is None else str(first.index)
        if index and any(
            re.fullmatch(rf"{re.escape(first.name)}\d+", child) for child in _top(spec)
        ):
            yield Meant(0.0, f"stages{index}")  # layer1, layer2, …
        yield from _words(first.name, index)
        yield from _classes(first.name, spec)
    for aligned in alignments(path, spec):
        yield Meant(aligned.cost, _as_path(aligned.text))


def _words(name: str, index: str) -> Iterator[Meant]:
    """Yield words of the vocabulary, with the index that was written."""
    for word in () if never_selected(name) else WORDS:
        if (
            word in OLD_WORDS
            or (word in NEEDS_INDEX and not index)
            or (index and word not in INDEXED)
        ):
            continue
        cost = unlike(name, word)
        if cost < inf:
            yield Meant(cost, word + index)
    for selector in meant_by(name):
        if not index or selector in INDEXED:
            yield Meant(0.15, selector + index)


def _classes(name: str, spec: ModelSpec) -> Iterator[Meant]:
    """Yield the layer classes with this name."""
    for kind in sorted(set(spec.tree.types)):
        if kind.lower() == name.lower():
            yield Meant(0.16, f'type:"{kind}"')


def _in_words(path: Path) -> Iterator[str]:
    """Yield a path in neutral words: the position of a block, and a word for each segment below.

    If a segment has no such word, nothing is yielded: the other words would select something else.
    """
    parts: list[str] = []
    for segment in joined_numbers(path):
        position = "" if segment.index is None else str(segment.index)
        if position and (units := units_of(segment.name)):
            parts = [f"{units}{position}"]  # what stands before leads there
        elif position or not (word := _plain_word(segment.name)):
            parts.append("" if segment.name not in WRAPPERS else "all")
        else:
            parts.append(word)
    yield from _joined([part for part in dict.fromkeys(parts) if part != "all"])


def _joined(parts: list[str]) -> Iterator[str]:
    """Yield the intersection of some selectors; nothing if one of them is unknown."""
    if len(parts) > 1:
        parts = [f"({part})" if "|" in part else part for part in parts]
    if parts and "" not in parts:
        yield " & ".join(parts)


def _plain_word(name: str, *, numbered: bool = False) -> str:
    """Return the word for a kind of layer or a place that a name stands for, or ""."""
    names = (name, name.rstrip("_0123456789")) if numbered else (name,)
    meant = (word for spelling in names for word in (spelling, *meant_by(spelling)))
    return next((word for word in meant if word in _PLAIN), "")


def _below(path: Path, spec: ModelSpec, count: Count, *, sure: bool) -> Iterator[str]:
    """Yield what a path may have meant if it begins with something that the model knows.

    Args:
        path: A path that matches nothing.
        spec: The model.
        count: Counts what a selector selects.
        sure: Only one path of the model is near.
    """
    segments = list(joined_numbers(path))
    for length in range(len(segments) - 1, 0, -1):
        lead, rest = ".".join(map(str, segments[:length])), segments[length:]
        if {*"*?"} & {*lead}:
            continue
        if not count(lead):
            modules = alignments(Path(tuple(segments[:length])), spec, modules=True)
            near = [row.text for row in modules if row.cost <= _SAME_MODULE and count(row.text)]
            if len(near) != 1 or not all(_plain_word(part.name) for part in rest):
                continue
            lead = near[0]
        is_word = length == 1 and (lead in WORDS or segments[0].name in INDEXED)
        if is_word and not sure and segments[0].index is not None:
            tail = ".".join(map(str, rest))
            place = module_of(segments[0], spec, count)
            yield f"{place}.{tail}" if place else f"{lead} & **.{tail}"
        if is_word or not sure:
            # In a module, `norm1` is a name of its own; in blocks, it can only mean their norms.
            plains = [_plain_word(part.name, numbered=is_word) for part in rest]
            yield from _joined([lead, *plains])
        return


def _as_path(text: str) -> str:
    """Quote a path that is spelled like a word."""
    return f'path:"{text}"' if text in WORDS else text


def _did_you_mean(texts: Iterable[str], count: Count) -> str:
    """Ask for the first few selectors that select something."""
    asked: list[str] = []
    for text in dict.fromkeys(texts):
        number = count(text) if len(asked) < _MOST else 0
        word = text.removeprefix("path:").strip('"')
        same = word != text and count(word) == number  # the word was asked for already
        if number and not same:
            asked.append(f"{quoted(text)} ({_sort(text)}, {counted(number, 'parameter')})")
    if not asked:
        return ""
    return f"did you mean {', '.join(asked[:-1])}{' or ' if asked[1:] else ''}{asked[-1]}?"


def _sort(text: str) -> str:
    """Return what sort of selector a text is, as a message says it."""
    if text.startswith("type:"):
        return "a layer class"
    if " & " in text or " | " in text:
        return "in neutral words"
    return "a word of the vocabulary" if text.partition("[")[0] in WORDS else "a native path"


def _without_a_guess(path: Path, spec: ModelSpec, count: Count) -> str:
    """Say what can be selected where no name is near what was written."""
    last = path.segments[-1].name
    if why := never_selected(last):
        return why
    wanted = [word for word in meant_by(last) if word in WORDS and not count(word)]
    if held := _holds(path, spec):
        return held
    if why := past_the_end(path, spec):
        return why
    if len(path.segments) == 1 and wanted:
        return explain_nothing(Word(wanted[0]), spec, count)
    # norm1 or ln_2: a word with the number that another model gives to such layers.
    if hint := _did_you_mean([_plain_word(last, numbered=True)], count):
        return hint
    left_out = NEEDS_INDEX | OLD_WORDS.keys()
    words = [word for word in WORDS if word not in left_out and count(word)]
    return (
        f"words that select something here: {', '.join(words)}; paths begin at a top-level name, "
        "and `unifreeze show MODEL` lists them"
    )


def _holds(path: Path, spec: ModelSpec) -> str:
    """Say what the last module in a path that the model has holds."""
    tree, names = spec.tree, _plain_segments(path)
    numbers = spec.module_numbers
    for length in range(len(names) - 1, -1, -1):
        place = ".".join(names[:length])
        if place not in numbers:
            continue
        below = [tree.paths[child].rpartition(".")[2] for child in tree.children(numbers[place])]
        leaves = [tree.names[n].rpartition(".")[2] for n in tree.own_names(numbers[place])]
        alike = [name for name in below if _without_digits(name) == _without_digits(names[length])]
        held = listing([*(alike or below), *([] if alike else leaves)], limit=12)
        if held and (length or alike):
            return f"{place or 'the model'} holds: {held}"
    return ""


def _plain_segments(path: Path) -> list[str]:
    """Return the names in a path, with each position as another name."""
    names: list[str] = []
    for segment in path.segments:
        names.append(segment.name)
        if segment.index is not None and segment.index.single:
            names.append(str(segment.index)[1:-1])
    return names


def _without_digits(name: str) -> str:
    return re.sub(r"\d+", "#", name)
