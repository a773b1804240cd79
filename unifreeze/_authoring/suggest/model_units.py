"""The units of a model that a suggestion is about: stem, each block, neck, head."""

from __future__ import annotations

from dataclasses import dataclass

from unifreeze._structure import ModelSpec, Unit, Zone

_WORDS = {Zone.STEM: "stem", Zone.NECK: "neck", Zone.HEAD: "head"}


@dataclass(frozen=True)
class ModelUnit:
    """One unit of a model.

    Attributes:
        label: First piece of its canonical names.
        selector: What selects it.
        zone: Where it is.
        parameters: Numbers of its parameters.
        values: Number of their values.
        block: Native path, if the unit is a block; "" otherwise.
    """

    label: str
    selector: str
    zone: Zone
    parameters: tuple[int, ...]
    values: int
    block: str


def units_of_model(spec: ModelSpec) -> list[ModelUnit]:
    """Divide a model into units, from the input to the head.

    A transition belongs to the block after it, as in selectors; a model without blocks is divided
    into its layers.
    """
    units: dict[tuple[str, Zone], list[int]] = {}
    for number in spec.canonical_order.tolist():
        units.setdefault(_key(spec, number), []).append(number)
    return [_unit(spec, *key, numbers) for key, numbers in units.items()]


def _key(spec: ModelSpec, number: int) -> tuple[str, Zone]:
    owner = spec.tree.owners[spec.first_names[number]]
    unit = _unit_of(spec, owner)
    if unit.zone in (Zone.BLOCK, Zone.TRANSITION):
        return f"{spec.placement.labels[unit.run]}.{unit.block}", Zone.BLOCK
    if unit.zone is Zone.NET:
        return spec.owner_name(owner), Zone.NET
    return unit.label, unit.zone


def _unit_of(spec: ModelSpec, owner: int) -> Unit:
    return spec.units[spec.placement.unit_of[owner]]


def _unit(spec: ModelSpec, label: str, zone: Zone, numbers: list[int]) -> ModelUnit:
    values = int(spec.counts[numbers].sum())
    block, selector = "", f'at:"{label}"'
    if zone is Zone.BLOCK:
        owner = spec.tree.owners[spec.first_names[numbers[-1]]]
        unit = _unit_of(spec, owner)
        block = spec.tree.paths[spec.runs[unit.run].blocks[unit.block]]
        selector = _block_selector(spec, unit, label)
    elif len(spec.runs) <= 1 and zone in _WORDS:
        selector = _WORDS[zone]
    return ModelUnit(label, selector, zone, tuple(numbers), values, block)


def _block_selector(spec: ModelSpec, unit: Unit, label: str) -> str:
    word = run_word(spec, unit.run)
    if word:
        return f"{word}[{unit.block}]"
    before = label.rpartition(".")[0]
    labels = [u.label for u in spec.units if u.run == unit.run and u.block == unit.block]
    whole = [label for label in labels if "/" not in label] or [f"{before}.{unit.block}"]
    return " | ".join(f'at:"{label}"' for label in dict.fromkeys(whole))


def run_word(spec: ModelSpec, run: int) -> str:
    """Return the word for a run of blocks; "" if no word means this run alone."""
    if len(spec.runs) == 1:
        return "blocks"
    labels = spec.placement.labels
    return labels[run] if sorted(labels) == ["decoder", "encoder"] else ""


def middle(units: list[ModelUnit]) -> list[ModelUnit]:
    """Return the units that make up a model's depth: its blocks, or its layers if it has none."""
    return [unit for unit in units if unit.zone in (Zone.BLOCK, Zone.NET)]


def top(spec: ModelSpec, units: list[ModelUnit], share: float) -> tuple[str, ...]:
    """Return selectors for a share of a model's depth, counted from the head, and for the neck.

    It is at least one block; a share of 1 is the whole model.
    """
    deep = middle(units)
    count = max(1, reached(share, len(deep)))
    if share >= 1 or count >= len(deep):
        return ("all",)
    above = [unit.selector for unit in units if unit.zone is Zone.NECK]
    return (*run_of(spec, deep[len(deep) - count :]), *dict.fromkeys(above))


def reached(share: float, count: int) -> int:
    """Return how many of `count` blocks are within a share of them."""
    return int(share * count + 1e-9)


def run_of(spec: ModelSpec, chosen: list[ModelUnit]) -> tuple[str, ...]:
    """Return short selectors for neighbouring units: `blocks[-2:]`, not one for each block."""
    numbers: dict[str, list[int]] = {}
    for unit in chosen:
        word, _, number = unit.selector.partition("[")
        if word in ("blocks", "encoder", "decoder"):
            numbers.setdefault(word, []).append(int(number.rstrip("]")))
        else:
            numbers[unit.selector] = []
    return tuple(_sliced(spec, word, n) if n else word for word, n in numbers.items())


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


def has_head(units: list[ModelUnit]) -> bool:
    """Return whether a model has a head."""
    return any(unit.zone is Zone.HEAD for unit in units)
