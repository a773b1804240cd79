"""What was probably meant by a pattern in quotes that matches nothing: re, type and at."""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import inf

from unifreeze._plan.selectors.expression import Quoted
from unifreeze._plan.selectors.hints.aligned_paths import is_long, unlike
from unifreeze._plan.selectors.hints.nearest import top_level
from unifreeze._plan.selectors.hints.numbers import Count
from unifreeze._plan.selectors.hints.synonyms import meant_by
from unifreeze._plan.selectors.regular_expressions import matching
from unifreeze._structure import ModelSpec
from unifreeze.errors import ResolveError, UnmatchedSelectorError, counted, cut, listing, quoted


def unmatched_pattern(quoted: Quoted, spec: ModelSpec, count: Count) -> UnmatchedSelectorError:
    """Build the error for a pattern that matches nothing."""
    hints = {"re": _regex, "type": _type, "at": _canonical}[quoted.by]
    try:
        context, hint = ("", "") if is_long(quoted.pattern) else hints(quoted.pattern, spec, count)
    except ResolveError:  # another form of the expression takes too long
        context, hint = "", ""
    return UnmatchedSelectorError(
        f"{cut(str(quoted), 120)} matches none of {counted(len(spec), 'parameter')}",
        context="\n".join(filter(None, [context, top_level(spec)])),
        hint=hint,
    )


def _first(texts: Iterable[str], count: Count) -> str:
    """Ask for the first selector that selects something."""
    for text in dict.fromkeys(texts):
        if number := count(text):
            return f"did you mean {quoted(text)} ({counted(number, 'parameter')})?"
    return ""


def _regex(pattern: str, spec: ModelSpec, count: Count) -> tuple[str, str]:
    names = spec.tree.names
    rule = "a regular expression must match a parameter's whole name, from the root to the leaf"
    if not any(matching(pattern, names, how="search")):
        if any(matching(pattern, names, how="search", ignore_case=True)):
            return rule, _first([str(Quoted("re", f"(?i).*{_grouped(pattern)}.*"))], count)
        example = listing(names[:2])
        return rule, f"no name holds it anywhere; names here look like: {example}"
    inner = _grouped(pattern)
    matching(rf"(.*\.)?{inner}(\..*)?", names)  # where this takes too long, nothing is asked
    wide = count(str(Quoted("re", rf"(.*\.)?{inner}(\..*)?")))
    forms = (rf"{inner}\..*", rf".*\.{inner}", rf".*\.{inner}\..*", rf"(.*\.)?{inner}(\..*)?")
    same = [form for form in forms if wide and count(str(Quoted("re", form))) == wide]
    return rule, _first([str(Quoted("re", form)) for form in (*same, f".*{inner}.*")], count)


def _grouped(pattern: str) -> str:
    """Remove what anchors a search, and put alternatives in parentheses."""
    bare = pattern.removeprefix("^").removesuffix("$").removeprefix(".*").removesuffix(".*")
    bare = bare.removeprefix(r"\.").removesuffix(r"\.")
    return f"({bare})" if "|" in bare else bare


def _type(pattern: str, spec: ModelSpec, count: Count) -> tuple[str, str]:
    kinds = sorted(set(spec.tree.types))
    bare = pattern.rpartition(".")[2]
    near = sorted((unlike(bare, kind), kind) for kind in kinds if unlike(bare, kind) < inf)
    held = [kind for kind in kinds if count(str(Quoted("type", kind)))]
    if bare in kinds and bare not in held:
        return "", f"layers of class {bare} hold no parameters"
    begun = [f"{bare}*"] if bare and any(kind.startswith(bare) for kind in kinds) else []
    texts = [str(Quoted("type", kind)) for kind in [*(k for c, k in near if c < 0.3), *begun]]
    texts += [*(str(Quoted("type", kind)) for _, kind in near), *meant_by(bare)]
    hint = _first(texts, count) or "`unifreeze show MODEL` lists each layer with its class"
    return f"classes here: {listing(held, limit=12)}", hint


def _canonical(pattern: str, spec: ModelSpec, count: Count) -> tuple[str, str]:
    if pattern in spec.module_numbers or pattern in spec.tree.names:
        return "", f"that is a native path, which is written without at: {pattern}"
    # The parts of a canonical name, between slashes, have few spellings.
    names = dict.fromkeys(re.sub(r"\.\d+", ".#", name) for name in spec.canonical)
    pattern = re.sub(r"\[(\d+)\]", r".\1", pattern)
    wanted = [re.split(r"\.(?=[\d*])", part)[0] for part in pattern.split("/")]
    best: list[tuple[float, str]] = []
    for name in names:
        there = [re.split(r"\.", part)[0] for part in name.split("/")][: len(wanted)]
        cost = sum(unlike(a, b) for a, b in zip(wanted, there, strict=False))
        if len(there) == len(wanted) and cost < inf:
            best.append((cost, _numbered(pattern, there)))
    texts = [str(Quoted("at", text)) for _, text in sorted(best)]
    example = spec.canonical[spec.first_names[len(spec) // 2]]
    hint = _first(texts, count) or f'names are made of zone, layer and role: at:"{example}"'
    return f"canonical names here look like: {example}", hint


def _numbered(pattern: str, parts: list[str]) -> str:
    """Put correctly spelled parts into a pattern, and keep its numbers."""
    numbers = [re.search(r"\.(\d+|\*)$", part) for part in pattern.split("/")]
    pairs = zip(parts, numbers, strict=True)
    return "/".join(f"{part}.{number[1]}" if number else part for part, number in pairs)
