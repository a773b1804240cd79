"""Networks whose layers are registered in shuffled order: right with a batch, never silently wrong.

python -m tests.support.shuffled --models 100        networks of the pair zoo, both frameworks
"""

from __future__ import annotations

import argparse
import random
import sys
import warnings
from collections import Counter
from typing import Any

import unifreeze as uf
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
    "decayed": uf.FreezePlan().only("head").with_group("all", layer_decay=0.5),
}
QUICK = ("bert", "ernie", "resnet18", "albert", "gpt2", "t5", "bart", "opt", "pegasus", "mpnet")


def shuffle(model: Any, seed: int) -> None:
    """Register the children and parameters of every module that is not a list in another order."""
    order = random.Random(seed)
    torch_like = any(base.__module__.startswith("torch.") for base in type(model).__mro__)
    children = "_modules" if torch_like else "_sub_layers"
    every = list(model.modules()) if torch_like else [model, *model.sublayers()]
    for module in every:
        for name in (children, "_parameters"):
            own = vars(module).get(name)
            if own and not any(key.isdigit() for key in own):
                items = list(own.items())
                order.shuffle(items)
                own.clear()
                own.update(items)


def frozen(model: Any) -> frozenset[str] | None:
    """Native paths of what is frozen, whatever name comes first; by any of its names."""
    backend = backend_for(model)
    flags = backend.read(model)
    live = backend.objects(model)
    still = {id(live[path]) for path, trainable in flags.items() if not trainable}
    return frozenset(path for path in live if id(live[path]) in still)


def decide(plan: uf.FreezePlan, model: Any, batch: Any = None) -> frozenset[str] | str:
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


def try_model(target: str, batch: Batch, seed: int) -> tuple[Counter[str], list[str]]:
    """Try every plan on one network as it comes and shuffled; return counts, and what is wrong."""
    counts: Counter[str] = Counter()
    wrong = []
    model = load_model(target)[0]
    rights = {name: decide(plan, model, batch) for name, plan in PLANS.items()}
    shuffle(model, seed)
    for name, plan in PLANS.items():
        right = rights[name]
        with_batch = decide(plan, model, batch)
        if isinstance(right, str) or isinstance(with_batch, str):
            counts["refused"] += 1
            continue
        if with_batch != right:
            wrong.append(f"{target}, {name}, with a batch: {sorted(with_batch ^ right)[:4]}")
        result = outcome(plan, model, batch, right)
        counts[result] += 1
        if result == "WRONG":
            wrong.append(f"{target}, {name}, without a batch")
    return counts, wrong


def main() -> int:
    """Try networks of the zoo, both frameworks' ports of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=100)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    counts: Counter[str] = Counter()
    tried, bad = 0, []
    for pair in PAIRS.values():
        for target in (pair.torch, pair.paddle):
            if tried == given.models:
                break
            try:
                found, wrong = try_model(target, read_batch(list(pair.batch)) or Batch(), tried)
            except Exception as error:
                print(f"{target}: {type(error).__name__}: {error}")
                continue
            tried += 1
            counts += found
            bad += wrong
            print(f"{target}: {dict(found)} {wrong or ''}", flush=True)
    print(f"{tried} networks: {dict(counts)}; wrong: {bad}")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
