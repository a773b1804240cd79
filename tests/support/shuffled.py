"""Networks that are written down otherwise: right with a batch, never silently wrong without one.

python -m tests.support.shuffled --models 100        networks of the pair zoo, both frameworks
python -m tests.support.shuffled --damages 100       seeded damages of all kinds to some of them
"""

from __future__ import annotations

import argparse
import random
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import unifreeze as uf
from tests.support.damages import DAMAGES, Damage, shuffled
from tests.support.pairs import PAIRS
from unifreeze._cli.find_model import load_model, read_batch
from unifreeze._protocol import Batch, backend_for
from unifreeze.errors import OrderError, UnifreezeError

PLANS = {
    "head": uf.FreezePlan().only("head"),
    "embeddings": uf.FreezePlan().train("all").freeze("embeddings"),
    "stem": uf.FreezePlan().train("all").freeze("stem"),
    "half": uf.FreezePlan().train("all").freeze("blocks[:50%]"),
    "parameters": uf.FreezePlan().train("all").freeze("params[:30%]"),
    "last": uf.FreezePlan().only("blocks[-1]"),
    "classifier": uf.FreezePlan().only("classifier"),
    "backbone": uf.FreezePlan().train("all").freeze("backbone - neck"),
    "decayed": uf.FreezePlan().only("head").with_group("all", layer_decay=0.5),
}
QUICK = (
    "bert for sequences",
    "ernie for tokens",
    "resnet18",
    "albert",
    "gpt2",
    "t5",
    "bart",
    "opt",
)
QUICK += ("distilbert for sequences", "clip (vision)", "mpnet", "llama", "electra for sequences")


def frozen(model: Any) -> frozenset[int]:
    """Identities of the tensors that are frozen, whatever their names."""
    backend = backend_for(model)
    flags = backend.read(model)
    live = backend.objects(model)
    return frozenset(id(live[path]) for path, trainable in flags.items() if not trainable)


def decide(plan: uf.FreezePlan, model: Any, batch: Any = None) -> frozenset[int] | str:
    """Apply a plan, read the flags and take it off again; or return the error's name."""
    try:
        handle = plan.apply(model, batch=batch)
    except UnifreezeError as error:
        return type(error).__name__
    found = frozen(model)
    handle.remove()
    return found


def outcome(plan: uf.FreezePlan, model: Any, batch: Batch, right: Any) -> str:
    """Say what becomes of a plan without a batch, once the model has run."""
    try:
        handle = plan.apply(model)
    except UnifreezeError:
        return "refused"
    found = frozen(model)
    backend = backend_for(model)
    try:
        _run(backend, model, batch)
    except OrderError:
        return "told"
    finally:
        handle.remove()
    return "right" if found == right else "WRONG"


def _run(backend: Any, model: Any, batch: Batch) -> None:
    """Call a model as its user does, past the backend's own passes."""
    like = backend.anchor(model)
    args = [backend.from_input(array, like) for array in batch.args]
    named = {name: backend.from_input(array, like) for name, array in batch.kwargs.items()}
    model(*args, **named)


def try_model(
    target: str, batch: Batch, seed: int, damage: Damage = shuffled
) -> tuple[Counter[str], list[str]]:
    """Try every plan on one network as it comes and damaged; return counts, and what is wrong."""
    counts: Counter[str] = Counter()
    wrong = []
    model = load_model(target)[0]
    rights = {name: decide(plan, model, batch) for name, plan in PLANS.items()}
    model = damage(model, random.Random(seed))
    for name, plan in PLANS.items():
        right = rights[name]
        with_batch = decide(plan, model, batch)
        if isinstance(right, str) or isinstance(with_batch, str):
            counts["refused"] += 1
            if isinstance(with_batch, str) and not isinstance(right, str):
                wrong.append(f"{target}, {name}, with a batch: {with_batch}")
            continue
        if with_batch != right:
            wrong.append(f"{target}, {name}, with a batch: {_names(model, with_batch ^ right)}")
        result = outcome(plan, model, batch, right)
        counts[result] += 1
        if result == "WRONG":
            wrong.append(f"{target}, {name}, without a batch")
    return counts, wrong


def _names(model: Any, tensors: frozenset[int]) -> list[str]:
    live = backend_for(model).objects(model)
    return sorted(path for path, tensor in live.items() if id(tensor) in tensors)[:4]


def trials(models: int, damages: int) -> Iterator[tuple[str, str, Batch, int, Damage]]:
    """Yield what to try: each network shuffled, or the quick ones with every kind of damage."""
    pairs = [PAIRS[name] for name in QUICK] if damages else list(PAIRS.values())
    targets = [(t, pair.batch) for pair in pairs for t in (pair.torch, pair.paddle)]
    kinds = list(DAMAGES) if damages else ["shuffled"]
    for seed in range(damages or min(models, len(targets))):
        kind = kinds[seed % len(kinds)]
        # One network more for each round of kinds, so that every network meets every kind.
        target, batch = targets[(seed + seed // len(kinds)) % len(targets)]
        yield target, kind, read_batch(list(batch)) or Batch(), seed, DAMAGES[kind]


def main() -> int:
    """Try networks of the zoo, both frameworks' ports of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--damages", type=int, default=0)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    counts: Counter[str] = Counter()
    tried, bad = 0, []
    for target, kind, batch, seed, damage in trials(given.models, given.damages):
        try:
            found, wrong = try_model(target, batch, seed, damage)
        except Exception as error:
            print(f"{target}, {kind}: {type(error).__name__}: {error}")
            continue
        tried += 1
        counts += found
        bad += [f"{kind}: {text}" for text in wrong]
        print(f"{target}, {kind}: {dict(found)} {wrong or ''}", flush=True)
    print(f"{tried} networks: {dict(counts)}; wrong: {len(bad)} {bad}")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
