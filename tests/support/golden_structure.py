"""What the library makes of every network of the zoo, as a text a person can read.

    python -m tests.support.golden_structure            print it
    python -m tests.support.golden_structure --write    write it to tests/golden/structure.txt

One block per network: the runs of blocks with their stages, then every zone from the input to the
head with what it holds. Above it stands who looks like that: framework, size, and what positions
are counted by.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.support.zoo import ZOO, runnable, structure  # noqa: E402
from unifreeze._protocol import load_backend  # noqa: E402
from unifreeze._structure import KINDS, ModelSpec  # noqa: E402

GOLDEN = ROOT / "tests" / "golden" / "structure.txt"
FORMS = ("full", "small", "traced")
"""At full size; at the size that runs; the same with positions counted along one batch."""


@cache
def described(name: str, framework: str) -> dict[str, ModelSpec]:
    """Describe one network in every form there is of it."""
    network, backend = ZOO[name], load_backend(framework)
    found = {}
    if network.full:
        found["full"] = backend.describe(structure(name, framework))
    model = runnable(name, framework)
    found["small"] = backend.describe(model)
    if framework in network.runs:
        found["traced"] = backend.describe(model, network.batch())
    return found


def specs(name: str, form: str) -> dict[str, ModelSpec]:
    """Describe one network in one form, in every framework that has it."""
    found = {framework: described(name, framework).get(form) for framework in ZOO[name].build}
    return {framework: spec for framework, spec in found.items() if spec is not None}


def block_of(name: str) -> str:
    """Show one network; forms and frameworks that look the same are shown together."""
    seen: dict[str, list[str]] = {}
    for form in FORMS:
        for framework, spec in specs(name, form).items():
            size = "small" if ZOO[name].sizes and form != "full" else "full size"
            who = f"{framework}, {size}, order of {spec.order}"
            titles = seen.setdefault(body(spec), [])
            if who not in titles:
                titles.append(who)
    shown = ["\n".join([*(f"  # {who}" for who in titles), text]) for text, titles in seen.items()]
    return "\n".join([name, *shown])


def body(spec: ModelSpec) -> str:
    """Show one description: runs, then zones, then what is not certain."""
    at = spec.placement
    lines = [*_runs(spec), *_zones(spec)]
    for title, owners in (("never ran", at.unreached), ("ambiguous", at.ambiguous)):
        if owners:
            lines.append(f"{title}: {', '.join(sorted(map(spec.owner_name, owners)))}")
    return "\n".join(f"  {line}" for line in lines)


def _runs(spec: ModelSpec) -> Iterator[str]:
    if not spec.runs:
        yield "no blocks"
    for run, label in zip(spec.runs, spec.placement.labels, strict=True):
        stages = Counter(run.stages).values()
        split = f" ({' + '.join(map(str, stages))})" if len(stages) > 1 else ""
        noun = "stage" if len(stages) == 1 else "stages"
        yield f"{label}: {len(run.blocks)} in {len(stages)} {noun}{split}"


def _zones(spec: ModelSpec) -> Iterator[str]:
    """List stretches from the input to the head; neighbours alike in their layers share a line."""
    rows: list[list[Any]] = []
    for label, (layers, tensors, values) in _held(spec).items():
        if rows and rows[-1][2] == layers and _follows(rows[-1][1], label):
            rows[-1][1] = label
            rows[-1][3] += tensors
            rows[-1][4] += values
        else:
            rows.append([label, label, layers, tensors, values])
    for first, last, layers, tensors, values in rows:
        label = first if first == last else f"{first}..{_number(last)[1]}"
        each = "" if first == last else "each "
        yield f"{label:<27} {tensors:>4} parameters {values:>11,} values: {each}{layers}"


def _held(spec: ModelSpec) -> dict[str, tuple[str, int, int]]:
    """For each stretch, its layers by kind, its number of parameters and of values."""
    tree, at = spec.tree, spec.placement
    units: dict[str, list[int]] = {}
    for number in spec.canonical_order:
        owner = tree.owners[spec.first_names[number]]
        units.setdefault(at.units[at.unit_of[owner]].label, []).append(int(number))
    held = {}
    for label, numbers in units.items():
        owners = {(spec.parameters[n].kind, spec.parameters[n].owner) for n in numbers}
        kinds = Counter(kind for kind, _ in owners)
        layers = ", ".join(f"{kinds[kind]} {kind}" for kind in KINDS if kinds[kind])
        held[label] = layers, len(numbers), sum(spec.parameters[n].values for n in numbers)
    return held


def _number(label: str) -> tuple[str, int]:
    prefix, number = re.fullmatch(r"(.*?)(\d*)", label).groups()  # type: ignore[union-attr]
    return prefix, int(number or -1)


def _follows(one: str, other: str) -> bool:
    return _number(other) == (_number(one)[0], _number(one)[1] + 1) and _number(one)[1] >= 0


def whole() -> str:
    """Show every network."""
    return "\n\n".join(map(block_of, ZOO)) + "\n"


def main() -> None:
    """Print the text, or write it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help=f"write it to {GOLDEN.name}")
    if parser.parse_args().write:
        GOLDEN.write_text(whole(), encoding="utf-8")
    else:
        print(whole())


if __name__ == "__main__":
    main()
