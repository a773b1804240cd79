"""What was likely meant by a selector that matches nothing: only what selects something is said."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from math import inf
from typing import NamedTuple

from unifreeze._plan.selectors.expression import Both, Expression, Path, Segment, Without, Word
from unifreeze._plan.selectors.hints.aligned_paths import WRAPPERS, alignments, unlike
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
from unifreeze._plan.selectors.vocabulary import INDEXED, NEEDS_INDEX, WORDS
from unifreeze._structure import ModelSpec
from unifreeze.errors import UnmatchedSelectorError, counted, cut, listing, quoted

_MOST = 3
_SAME_MODULE = 0.25
"""What a module's path may cost at most of which only the lead is left out."""
_PLAIN = frozenset(WORDS) - INDEXED | {"query | key | value"}


class Guess(NamedTuple):
    """A selector that may have been meant.

    Attributes:
        cost: How far it is from what was written.
        text: The selector.
    """

    cost: float
    text: str


def unmatched_path(path: Path, spec: ModelSpec, count: Count) -> UnmatchedSelectorError:
    """Build the error for a path that is not in the model, with what it may have meant."""
    written = Path(tuple(Segment(plain(one.name), one.index) for one in path.segments))
    guesses = sorted(_guesses(written, spec), key=lambda guess: guess.cost)
    if written.segments != path.segments:
        guesses.insert(0, Guess(0.0, str(written)))
    near = [guess.text for guess in guesses if guess.cost <= guesses[0].cost + 0.1]
    by_number = list(number_guesses(written, spec, count))
    if by_number and "[" not in by_number[0]:
        near = [*by_number, *near]  # a module has that number in its name
    words = [text for text in _below(written, spec, count, sure=len(near) == 1) if count(text)]
    words = words or list(_in_words(written))
    # Of a path that can be many, the words say all of them at once.
    first = len(near) > 1 and len(written.segments) > 1 and not by_number
    hint = _did_you_mean([*words, *near] if first else [*near, *words, *by_number], count)
    if hint and any(text.endswith(f".{path}") for text in near):
        hint += " Paths start at the root."
    if hint and (found := numbered(written)) and found.named and "[" in hint:
        hint += " Positions begin at 0."
    empty, meant = nothing_in(path, spec)
    if not empty or not count(str(Path(tuple(Segment(one.name) for one in written.segments)))):
        empty = meant = ""
    return UnmatchedSelectorError(
        f"{cut(str(path), 120)!r} matches none of {counted(len(spec), 'parameter')}",
        context="\n".join(filter(None, [empty, top_level(spec)])),
        hint=meant or hint or _without_a_guess(written, spec, count),
    )


def unmatched_module(place: str, spec: ModelSpec) -> UnmatchedSelectorError:
    """Build the error for a submodule that the model has not."""
    path = Path(tuple(map(Segment, place.split("."))))
    near = [one.text for one in alignments(path, spec, modules=True) if one.text in spec.tree.paths]
    hint = f'did you mean "in {near[0]}"?' if near else _holds(path, spec)
    if place in WORDS and not near:
        hint = f"after `in` stands a module's path; for what is in both, write … & {place}"
    return UnmatchedSelectorError(
        f"{place!r} is not a module of the model", context=top_level(spec), hint=hint
    )


def top_level(spec: ModelSpec) -> str:
    """Say with what the model's paths begin."""
    return f"top-level names: {listing(_top(spec), limit=12)}"


def _top(spec: ModelSpec) -> list[str]:
    return [spec.tree.paths[child] for child in spec.tree.children(0)]


def explain_nothing(expression: Expression, spec: ModelSpec, count: Count) -> str:
    """Say why an expression all of whose parts are known selects nothing."""
    if isinstance(expression, Word) and expression.name == "adapter":
        return "the model has no adapters (LoRA and kin): apply the plan after they are added"
    if empty := nothing_in(expression, spec)[0]:
        return empty
    if isinstance(expression, Path):
        return f"{expression} holds no parameters"
    if isinstance(expression, Word):
        return f"{expression.name!r} is {WORDS[expression.name]}, and this model has none"
    if isinstance(expression, Both | Without):
        left, right = str(expression.left), str(expression.right)
        how = "no parameter is in both" if isinstance(expression, Both) else "none is left"
        return f"{left}: {counted(count(left), 'parameter')}; {right}: {count(right)}; {how}"
    return ""


def _guesses(path: Path, spec: ModelSpec) -> Iterator[Guess]:
    """Give what a path can have meant, each with its cost."""
    if len(path.segments) == 1:
        first = path.segments[0]
        index = "" if first.index is None else str(first.index)
        if index and any(
            re.fullmatch(rf"{re.escape(first.name)}\d+", child) for child in _top(spec)
        ):
            yield Guess(0.0, f"stages{index}")  # layer1, layer2, …
        yield from _words(first.name, index)
        yield from _classes(first.name, spec)
    for found in alignments(path, spec):
        yield Guess(found.cost, _as_path(found.text))


def _words(name: str, index: str) -> Iterator[Guess]:
    """Give words of the vocabulary, with the index that was written."""
    for word in WORDS:
        if (word in NEEDS_INDEX and not index) or (index and word not in INDEXED):
            continue
        cost = unlike(name, word)
        if cost < inf:
            yield Guess(cost, word + index)
    for selector in meant_by(name):
        if not index or selector in INDEXED:
            yield Guess(0.15, selector + index)


def _classes(name: str, spec: ModelSpec) -> Iterator[Guess]:
    """Give layer classes that are called so."""
    for kind in sorted(set(spec.tree.types)):
        if kind.lower() == name.lower():
            yield Guess(0.16, f'type:"{kind}"')


def _in_words(path: Path) -> Iterator[str]:
    """Give a path over in neutral words: a block's position, and what each segment below it is.

    A path that has a segment which is not such a word is not said in words: less would be meant.
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
    """Give what is in all of some selectors at once; nothing where one of them is unknown."""
    if len(parts) > 1:
        parts = [f"({part})" if "|" in part else part for part in parts]
    if parts and "" not in parts:
        yield " & ".join(parts)


def _plain_word(name: str, *, numbered: bool = False) -> str:
    """Return the word of kind or place that a name stands for, or ""."""
    names = (name, name.rstrip("_0123456789")) if numbered else (name,)
    meant = (word for one in names for word in (one, *meant_by(one)))
    return next((word for word in meant if word in _PLAIN), "")


def _below(path: Path, spec: ModelSpec, count: Count, *, sure: bool) -> Iterator[str]:
    """Give what a path can have meant that begins with something the model knows.

    Args:
        path: It matches nothing.
        spec: The model.
        count: Counts what a selector selects.
        sure: There is one path that it was meant for.
    """
    segments = list(joined_numbers(path))
    for length in range(len(segments) - 1, 0, -1):
        lead, rest = ".".join(map(str, segments[:length])), segments[length:]
        if {*"*?"} & {*lead}:
            continue
        if not count(lead):
            modules = alignments(Path(tuple(segments[:length])), spec, modules=True)
            near = [one.text for one in modules if one.cost <= _SAME_MODULE and count(one.text)]
            if len(near) != 1 or not all(_plain_word(one.name) for one in rest):
                continue
            lead = near[0]
        is_word = length == 1 and (lead in WORDS or segments[0].name in INDEXED)
        if is_word and not sure and segments[0].index is not None:
            tail = ".".join(map(str, rest))
            place = module_of(segments[0], spec, count)
            yield f"{place}.{tail}" if place else f"{lead} & **.{tail}"
        if is_word or not sure:
            # What a module holds is known by name; words stand for layers of any number.
            plains = [_plain_word(one.name) for one in rest]
            if is_word:
                plains = [_plain_word(one.name, numbered=True) for one in rest]
            yield from _joined([lead, *plains])
        return


def _as_path(text: str) -> str:
    """Quote a path that is spelled like a word."""
    return f'path:"{text}"' if text in WORDS else text


def _did_you_mean(texts: Iterable[str], count: Count) -> str:
    """Ask for the first few selectors that select something."""
    said: list[str] = []
    for text in dict.fromkeys(texts):
        number = count(text) if len(said) < _MOST else 0
        word = text.removeprefix("path:").strip('"')
        same = word != text and count(word) == number  # the word was asked for already
        if number and not same:
            name = text.partition("[")[0]
            what = "a word of the vocabulary" if name in WORDS else "a native path"
            what = "in neutral words" if " & " in text or " | " in text else what
            what = "a layer class" if text.startswith("type:") else what
            said.append(f"{quoted(text)} ({what}, {counted(number, 'parameter')})")
    if not said:
        return ""
    return f"did you mean {', '.join(said[:-1])}{' or ' if said[1:] else ''}{said[-1]}?"


def _without_a_guess(path: Path, spec: ModelSpec, count: Count) -> str:
    """Say what there is to choose from where nothing is near."""
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
    # norm1, ln_2: a word with the number that another model gives to such layers
    if hint := _did_you_mean([_plain_word(last, numbered=True)], count):
        return hint
    words = [word for word in WORDS if word not in NEEDS_INDEX and count(word)]
    return (
        f"words that select something here: {', '.join(words)}; paths begin at a top-level name, "
        "and `unifreeze show MODEL` lists them"
    )


def _holds(path: Path, spec: ModelSpec) -> str:
    """Say what the last module of a path that is there holds."""
    tree, names = spec.tree, _plain_segments(path)
    numbers = spec.module_numbers
    for length in range(len(names) - 1, -1, -1):
        place = ".".join(names[:length])
        if place not in numbers:
            continue
        below = [tree.paths[child].rpartition(".")[2] for child in tree.children(numbers[place])]
        own = [tree.names[n].rpartition(".")[2] for n in tree.own_names(numbers[place])]
        alike = [name for name in below if _without_digits(name) == _without_digits(names[length])]
        held = listing([*(alike or below), *([] if alike else own)], limit=12)
        if held and (length or alike):
            return f"{place or 'the model'} holds: {held}"
    return ""


def _plain_segments(path: Path) -> list[str]:
    """Write a single index as a segment of its own."""
    names: list[str] = []
    for segment in path.segments:
        names.append(segment.name)
        if segment.index is not None and segment.index.single:
            names.append(str(segment.index)[1:-1])
    return names


def _without_digits(name: str) -> str:
    return re.sub(r"\d+", "#", name)
