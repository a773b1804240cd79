"""A model cut into the units that advice is given about: stem, each block, neck, head."""

from __future__ import annotations

from dataclasses import dataclass

from unifreeze._structure import ModelSpec, Unit, Zone

_WORDS = {Zone.STEM: "stem", Zone.NECK: "neck", Zone.HEAD: "head"}


@dataclass(frozen=True)
class Stretch:
    """One unit of a model.

    Attributes:
        label: First piece of its canonical names.
        selector: What selects it.
        zone: Where it is.
        parameters: Numbers of its parameters.
        values: How many values they hold.
        block: Native path of the block it is, "" if it is none.
    """

    label: str
    selector: str
    zone: Zone
    parameters: tuple[int, ...]
    values: int
    block: str


def stretches(spec: ModelSpec) -> list[Stretch]:
    """Cut a model into units, from the input to the head.

    A transition goes with the block it leads into, as in selectors; what has no blocks is cut into
    its layers.
    """
    found: dict[tuple[str, Zone], list[int]] = {}
    for number in spec.canonical_order.tolist():
        found.setdefault(_key(spec, number), []).append(number)
    return [_stretch(spec, *key, numbers) for key, numbers in found.items()]


def _key(spec: ModelSpec, number: int) -> tuple[str, Zone]:
    owner = spec.tree.owners[spec.first_names[number]]
    unit = _unit(spec, owner)
    if unit.zone in (Zone.BLOCK, Zone.TRANSITION):
        return f"{spec.placement.labels[unit.run]}.{unit.block}", Zone.BLOCK
    if unit.zone is Zone.NET:
        return spec.owner_name(owner), Zone.NET
    return unit.label, unit.zone


def _unit(spec: ModelSpec, owner: int) -> Unit:
    return spec.units[spec.placement.unit_of[owner]]


def _stretch(spec: ModelSpec, label: str, zone: Zone, numbers: list[int]) -> Stretch:
    values = int(spec.counts[numbers].sum())
    block, selector = "", f'at:"{label}"'
    if zone is Zone.BLOCK:
        owner = spec.tree.owners[spec.first_names[numbers[-1]]]
        unit = _unit(spec, owner)
        block = spec.tree.paths[spec.runs[unit.run].blocks[unit.block]]
        selector = _block_selector(spec, unit, label)
    elif len(spec.runs) <= 1 and zone in _WORDS:
        selector = _WORDS[zone]
    return Stretch(label, selector, zone, tuple(numbers), values, block)


def _block_selector(spec: ModelSpec, unit: Unit, label: str) -> str:
    word = run_word(spec, unit.run)
    if word:
        return f"{word}[{unit.block}]"
    before = label.rpartition(".")[0]
    names = [one.label for one in spec.units if one.run == unit.run and one.block == unit.block]
    own = [name for name in names if "/" not in name] or [f"{before}.{unit.block}"]
    return " | ".join(f'at:"{name}"' for name in dict.fromkeys(own))


def run_word(spec: ModelSpec, run: int) -> str:
    """Return the word for a run of blocks, "" where none means it alone."""
    if len(spec.runs) == 1:
        return "blocks"
    labels = spec.placement.labels
    return labels[run] if sorted(labels) == ["decoder", "encoder"] else ""


def middle(units: list[Stretch]) -> list[Stretch]:
    """Return the units that make up a model's depth: blocks, or layers where there are none."""
    return [unit for unit in units if unit.zone in (Zone.BLOCK, Zone.NET)]


def top(spec: ModelSpec, units: list[Stretch], share: float) -> tuple[str, ...]:
    """Return selectors for a share of a model's depth from the head down, with what is above it.

    At least one block; the whole share is everything.
    """
    deep = middle(units)
    count = max(1, reached(share, len(deep)))
    if share >= 1 or count >= len(deep):
        return ("all",)
    above = [unit.selector for unit in units if unit.zone is Zone.NECK]
    return (*run_of(spec, deep[len(deep) - count :]), *dict.fromkeys(above))


def reached(share: float, count: int) -> int:
    """Return how many of so many blocks are within a share of them."""
    return int(share * count + 1e-9)


def run_of(spec: ModelSpec, chosen: list[Stretch]) -> tuple[str, ...]:
    """Return few selectors for neighbouring units: `blocks[-2:]` in place of one for each."""
    found: dict[str, list[int]] = {}
    for unit in chosen:
        word, _, number = unit.selector.partition("[")
        if word in ("blocks", "encoder", "decoder"):
            found.setdefault(word, []).append(int(number.rstrip("]")))
        else:
            found[unit.selector] = []
    return tuple(_sliced(spec, word, n) if n else word for word, n in found.items())


def _sliced(spec: ModelSpec, word: str, numbers: list[int]) -> str:
    runs = {run_word(spec, index): len(run.blocks) for index, run in enumerate(spec.runs)}
    count, first, last = runs[word], min(numbers), max(numbers)
    if len(numbers) == count:
        return word
    if len(numbers) == 1:
        return f"{word}[{first}]"
    if len(numbers) < last - first + 1:
        return " | ".join(f"{word}[{number}]" for number in sorted(numbers))
    if last == count - 1:
        return f"{word}[{first - count}:]"
    return f"{word}[{first or ''}:{last + 1}]"


def has_head(units: list[Stretch]) -> bool:
    """Return whether a model has a head."""
    return any(unit.zone is Zone.HEAD for unit in units)
