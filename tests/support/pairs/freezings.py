"""Freeze one port of a network at random, capture it, and apply the plan to the other port.

    python -m tests.support.pairs.freezings                        300 freezings over the whole zoo
    python -m tests.support.pairs.freezings --count 40 bert gpt2   some, of these networks
    python -m tests.support.pairs.freezings --seed 1 --way batch

Exits 1 where a plan came out on the other port as something else than what was captured, or where
fewer than 85 in 100 came out right. What is right is told by the pairing alone: by which tensor of
one port is which of the other, whatever anybody calls them, and by the flags as the frameworks
themselves have them.
"""

from __future__ import annotations

import argparse
import gc
import re
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, NamedTuple

import unifreeze as uf
from tests.support.pairs import PAIRS, Pair
from tests.support.pairs.crossed import CROSSED
from tests.support.pairs.pair import target
from unifreeze._cli.find_model import load_model, read_batch
from unifreeze._protocol import Batch, backend_for
from unifreeze.errors import UnifreezeError

RIGHT, REFUSED, OTHER = "right", "refused", "OTHER"
WAYS = ("plain", "batch", "captured with a batch", "applied with a batch", "pairing")
"""With a batch on neither side, on both, on one of them; with the pairing of the two."""
LEAST = 0.85
"""The share that must come out right, of networks whose parts no order crosses."""

IDS = ("int64[2,7]<0:9>",)
HOME_MADE = (
    Pair(
        "small text",
        target("tests.support.pairs.small", "torch_text"),
        target("tests.support.pairs.small", "paddle_text"),
        IDS,
    ),
    Pair(
        "small image",
        target("tests.support.pairs.small", "torch_image"),
        target("tests.support.pairs.small", "paddle_image"),
        ("float32[2,3,8,8]",),
    ),
    *(
        Pair(
            f"decoder fused as {qkv}, {ffn}",
            target("tests.support.pairs.fused", "torch_apart"),
            target("tests.support.pairs.fused", "paddle_fused", qkv, heads, ffn, pieces),
            IDS,
        )
        for qkv, heads, ffn, pieces in (("q k v", 2, "gate up", 1), ("v q k", 1, "up gate", 5))
    ),
)
"""Networks that call nothing by the same name, and whose fused projections no word tells."""

Names = list[str]
Chosen = Callable[[Names, Random], set[str]]


class Ports(NamedTuple):
    """The two ports of one network, and which tensor is which.

    Attributes:
        models: The live models.
        pairing: Their pairing.
        batch: A batch for both.
    """

    models: tuple[Any, Any]
    pairing: uf.Pairing
    batch: Batch

    @classmethod
    def of(cls, pair: Pair) -> Ports:
        """Build both ports and pair them."""
        one, other = load_model(pair.torch)[0], load_model(pair.paddle)[0]
        batch = read_batch(list(pair.batch)) or Batch()
        return cls((one, other), uf.pair(one, other, batch=batch), batch)


class Outcome(NamedTuple):
    """What became of one freezing.

    Attributes:
        verdict: `right`, `refused` or `OTHER`.
        reason: The error, or a tensor that has another flag.
        plan: The rules, "" where there is no plan.
    """

    verdict: str
    reason: str
    plan: str = ""


def set_flag(tensor: Any, *, trainable: bool) -> None:
    """Set one parameter's flag as its framework has it."""
    if hasattr(tensor, "stop_gradient"):
        tensor.stop_gradient = not trainable
    else:
        tensor.requires_grad = trainable


def shuffle(model: Any, random: Random) -> None:
    """Register the children of every module in another order; lists keep theirs."""
    children = "_sub_layers" if hasattr(model, "sublayers") else "_modules"
    modules = model.sublayers(include_self=True) if hasattr(model, "sublayers") else model.modules()
    for module in list(modules):
        held = getattr(module, children)
        if not all(name.isdigit() for name in held):
            items = random.sample(list(held.items()), len(held))
            held.clear()
            held.update(items)


def is_trainable(tensor: Any) -> bool:
    """Read one parameter's flag as its framework has it."""
    return not tensor.stop_gradient if hasattr(tensor, "stop_gradient") else tensor.requires_grad


# What people freeze -------------------------------------------------------------------------


def _text_in_names(names: Names, random: Random) -> set[str]:
    text = random.choice([piece for piece in random.choice(names).split(".") if piece])
    return {name for name in names if text in name}


def _first(names: Names, random: Random) -> set[str]:
    return set(names[: random.randrange(1, len(names))])


def _last(names: Names, random: Random) -> set[str]:
    return set(names[-random.randrange(1, len(names)) :])


def _all_but_last(names: Names, random: Random) -> set[str]:
    return set(names[: -random.randrange(1, min(9, len(names)))])


def _children(names: Names, random: Random) -> set[str]:
    tops = sorted({name.split(".")[0] for name in names})
    chosen = set(random.sample(tops, random.randrange(1, len(tops) + 1)))
    return {name for name in names if name.split(".")[0] in chosen}


def _numbered_below(names: Names, random: Random) -> set[str]:
    found = [re.search(r"\.(\d+)\.", name) for name in names]
    numbers = {int(one[1]) for one in found if one}
    most = random.choice(sorted(numbers)) if numbers else 0
    return {
        name for name, one in zip(names, found, strict=True) if one and int(one[1]) <= most
    } or set(names[:3])


def _leaf(names: Names, random: Random) -> set[str]:
    end = "." + random.choice(names).rpartition(".")[2]
    return {name for name in names if name.endswith(end)}


def _same_layer_everywhere(names: Names, random: Random) -> set[str]:
    plain = {name: re.sub(r"\d+", "#", name) for name in names}
    kind = plain[random.choice(names)].rpartition(".")[0]
    return {name for name in names if plain[name].rpartition(".")[0] == kind}


def _some_layers(names: Names, random: Random) -> set[str]:
    owners = sorted({name.rpartition(".")[0] for name in names})
    chosen = set(random.sample(owners, random.randrange(1, min(6, len(owners) + 1))))
    return {name for name in names if name.rpartition(".")[0] in chosen}


def _all_but_some_layers(names: Names, random: Random) -> set[str]:
    return set(names) - _some_layers(names, random)


def _a_module(names: Names, random: Random) -> set[str]:
    pieces = random.choice(names).split(".")
    path = ".".join(pieces[: random.randrange(1, len(pieces) + 1)])
    return {name for name in names if name == path or name.startswith(f"{path}.")}


def _any_tensors(names: Names, random: Random) -> set[str]:
    share = random.choice((0.05, 0.3, 0.5, 0.9))
    return {name for name in names if random.random() < share}


FREEZINGS: dict[str, Chosen] = {
    "names that hold a text": _text_in_names,
    "the first parameters": _first,
    "the last parameters": _last,
    "all but the last few": _all_but_last,
    "some children": _children,
    "layers below a number": _numbered_below,
    "one leaf everywhere": _leaf,
    "one layer of every block": _same_layer_everywhere,
    "some layers": _some_layers,
    "all but some layers": _all_but_some_layers,
    "one module": _a_module,
    "any tensors": _any_tensors,
}


def in_effect(model: Any, found: dict[str, bool]) -> dict[str, bool]:
    """Say what trains in effect, which capturing with a batch goes by.

    Paddle gives neither of a norm's weight and bias a gradient if one of them is frozen.
    """
    frozen = {name for name, trains in found.items() if not trains}
    pairs = [] if not hasattr(model, "sublayers") else model.named_sublayers()
    for path, layer in pairs:
        if type(layer).__name__.startswith(("BatchNorm", "InstanceNorm")):
            own = {f"{path}.{leaf}" for leaf in ("weight", "scale", "bias")} & found.keys()
            frozen |= own if own & frozen else set()
    return {name: name not in frozen for name in found}


# What becomes of them -----------------------------------------------------------------------


def freeze(model: Any, chosen: set[str]) -> None:
    """Freeze parameters by their native names, as a loop does; all others train."""
    backend = backend_for(model)
    objects, spec = backend.objects(model), backend.describe(model)
    fixed = {row.path for row in spec.parameters if row.fixed}
    for row in spec.parameters:
        frozen = not chosen.isdisjoint((row.path, *row.aliases)) or row.path in fixed
        set_flag(objects[row.path], trainable=not frozen)


def flags(model: Any) -> dict[str, bool]:
    """Read whether each parameter trains, under every name it has."""
    backend = backend_for(model)
    objects, spec = backend.objects(model), backend.describe(model)
    return {
        name: is_trainable(objects[row.path])
        for row in spec.parameters
        for name in (row.path, *row.aliases)
    }


def carry(ports: Ports, number: int, chosen: set[str], way: str) -> Outcome:
    """Freeze one port, capture it, apply the plan to the other, and compare along the pairing.

    Args:
        ports: The two ports.
        number: Which of them is frozen by hand.
        chosen: The native names of what is frozen.
        way: One of `WAYS`.
    """
    source, other = ports.models[number], ports.models[1 - number]
    freeze(source, chosen)
    kept = wanted = flags(source)
    freeze(other, set())
    given: dict[str, Any] = {}
    if way in ("batch", "captured with a batch"):
        given["batch"] = ports.batch
        wanted = in_effect(source, wanted)
    if way == "pairing":
        given["pairing"] = ports.pairing
    plan = ""
    try:
        found = uf.capture(source, **given)
        plan = "; ".join(map(str, found.plan.rules))
        loaded = uf.FreezePlan.from_yaml(found.text)
        batch = ports.batch if way in ("batch", "applied with a batch") else None
        handle = loaded.apply(other, batch=batch)
    except UnifreezeError as error:
        freeze(source, set())
        return Outcome(REFUSED, f"{type(error).__name__}: {error}", plan)
    try:
        came, after = flags(other), flags(source)
    finally:
        handle.remove()
        freeze(source, set())
    assert after == kept, "capturing changed a flag"
    return compared(ports.pairing, number, wanted, came, plan)


def compared(
    pairing: uf.Pairing, number: int, wanted: dict[str, bool], came: dict[str, bool], plan: str
) -> Outcome:
    """Compare the flags of two ports, tensor by tensor of their pairing."""
    rows = [row if number == 0 else row.turned() for row in pairing.pairs if not row.state]
    for row in rows:
        if wanted[row.one_tensor] != came[row.other_tensor]:
            said = "frozen" if came[row.other_tensor] else "trainable"
            return Outcome(OTHER, f"{row.other_tensor} is not {said}, {row.one_tensor} is", plan)
    return Outcome(RIGHT, "", plan)


def random_freezings(
    ports: Ports, random: Random, count: int, ways: tuple[str, ...]
) -> Iterator[tuple[str, Outcome]]:
    """Give what became of some random freezings, each with what it was."""
    for _ in range(count):
        number, way = random.randrange(2), random.choice(ways)
        what = random.choice(list(FREEZINGS))
        names = list(backend_for(ports.models[number]).describe(ports.models[number]).tree.names)
        chosen = FREEZINGS[what](names, random)
        framework = backend_for(ports.models[number]).name
        yield f"{what}, from {framework}, {way}", carry(ports, number, chosen, way)


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="captured on one port, applied on the other")
    parser.add_argument("names", nargs="*", help="only these networks")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--shuffle", choices=("torch", "paddle"), help="register that port's layers in any order"
    )
    parser.add_argument("--way", choices=WAYS, action="append", help="only these ways")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    random = Random(given.seed)
    pairs = (*PAIRS.values(), *HOME_MADE, *CROSSED)
    every = {pair.name: pair for pair in pairs if not pair.different}
    shares = Counter(random.choices(given.names or list(every), k=given.count))
    verdicts: Counter[str] = Counter()
    plain: Counter[str] = Counter()
    by_way: dict[str, Counter[str]] = defaultdict(Counter)
    for name, count in shares.items():
        ports = Ports.of(every[name])
        if given.shuffle:
            shuffle(ports.models[given.shuffle == "paddle"], random)
        for what, outcome in random_freezings(ports, random, count, tuple(given.way or WAYS)):
            verdicts[outcome.verdict] += 1
            plain[outcome.verdict] += every[name] not in CROSSED
            by_way[what.rpartition(", ")[2]][outcome.verdict] += 1
            if outcome.verdict != RIGHT:
                reason = " / ".join(outcome.reason.splitlines())
                print(
                    f"{outcome.verdict}: {name}: {what}: {reason}\n    {outcome.plan}", flush=True
                )
        gc.collect()
    for way, found in by_way.items():
        print(f"{way}: {dict(found)}")
    print(f"{sum(verdicts.values())} freezings: {dict(verdicts)}")
    return int(verdicts[OTHER] > 0 or plain[RIGHT] < LEAST * sum(plain.values()))


if __name__ == "__main__":
    sys.exit(main())
