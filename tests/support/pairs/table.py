"""Pair every network of the zoo, compare what plans do to both ports, and write the table.

    python -m tests.support.pairs.table                     all pairs; writes docs/en/pairs.md
    python -m tests.support.pairs.table bert t5 resnet18    these, printed only
    python -m tests.support.pairs.table --budget 900        as many as fit, cheapest first;
                                                    exits 1 if one is not as the table says

No name of any parameter is written down for it anywhere: what is paired is found out.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import unifreeze as uf
from tests.support.pairs import PAIRS, Pair
from unifreeze._cli.find_model import load_model, read_batch
from unifreeze._protocol import Batch, backend_for
from unifreeze.errors import PairingError, UnifreezeError

ROOT = Path(__file__).resolve().parents[3]
PAGE, DATA = ROOT / "docs" / "en" / "pairs.md", ROOT / "docs" / "pairs.json"
PLANS = ("head only", "first half of the blocks", "norms")
POOLER_OR_HEAD = ("mpnet for sequences",)
"""Networks in which one port's pooler is in the other's head: `head | pooler` fits both."""


def plan_for(what: str, spec: Any) -> uf.FreezePlan:
    """Write one of the three plans for a network, in neutral words."""
    if what == "head only":
        return uf.FreezePlan().only("head")
    if what == "head and pooler":
        return uf.FreezePlan().only("head | pooler")
    if what == "norms":
        return uf.FreezePlan().train("all").freeze("norm")
    labels = spec.placement.labels
    if labels == ["blocks"]:
        half = "blocks[:50%]"
    elif sorted(labels) == ["decoder", "encoder"]:
        half = "encoder[:50%] | decoder[:50%]"
    else:
        half = "params[:50%]"
    return uf.FreezePlan().train("all").freeze(half)


def decisions(plan: uf.FreezePlan, model: Any) -> dict[str, bool] | str:
    """Apply a plan and read every flag back; or say why it does not fit."""
    try:
        handle = plan.apply(model)
    except UnifreezeError as error:
        return type(error).__name__
    try:
        return backend_for(model).read(model)
    finally:
        handle.remove()


def compare_plan(what: str, one: Any, other: Any, pairing: uf.Pairing) -> str:
    """Say whether a plan freezes the same of both ports, tensor by tensor of the pairing."""
    plan = plan_for(what, backend_for(one).describe(one))
    left, right = decisions(plan, one), decisions(plan, other)
    if isinstance(left, str) or isinstance(right, str):
        return "-" if left == right else f"{left if isinstance(left, str) else right} on one side"
    pairs = [pair for pair in pairing.pairs if not pair.state]
    differ = [pair.one for pair in pairs if left[pair.one_tensor] != right[pair.other_tensor]]
    frozen = sum(not left[pair.one_tensor] for pair in pairs)
    return f"{len(differ)} differ: {differ[0]}" if differ else f"{frozen} frozen"


def run(pair: Pair) -> dict[str, Any]:
    """Pair one network and compare the three plans."""
    start = time.perf_counter()
    one, other = load_model(pair.torch)[0], load_model(pair.paddle)[0]
    batch = read_batch(list(pair.batch)) or Batch()
    row: dict[str, Any] = {"name": pair.name, "settings": list(pair.settings), "refused": ""}
    try:
        pairing = uf.pair(one, other, batch=batch)
    except PairingError as error:
        row["refused"] = str(error)
    else:
        certificate = pairing.certificate
        parameters = [p for p in pairing.pairs if not p.state]
        row |= {
            "paired": len(parameters),
            "statistics": len(pairing.pairs) - len(parameters),
            "left": [f"{r.path}: {r.reason}" for r in pairing.left],
            "outputs": certificate.outputs,
            "gradients": certificate.gradients,
            "plans": [compare_plan(what, one, other, pairing) for what in PLANS],
            **(
                {"head and pooler": compare_plan("head and pooler", one, other, pairing)}
                if pair.name in POOLER_OR_HEAD
                else {}
            ),
        }
    row["seconds"] = round(time.perf_counter() - start, 1)
    return row


def as_stated(pair: Pair, row: dict[str, Any]) -> bool:
    """Tell whether a pair came out as the zoo says, and no plan decided differently in the two.

    A plan that one side refuses (a tie, or a head, that only one port knows of) is shown as such.
    """
    if bool(row["refused"]) != bool(pair.different or pair.fused):
        return False
    plans = row.get("plans", ())
    if pair.name in POOLER_OR_HEAD:
        plans = [*plans[1:], row.get("head and pooler", "")]
    return not any("differ" in plan for plan in plans)


def line(row: dict[str, Any]) -> str:
    """Write one row of a table."""
    if row["refused"]:
        return f"| {row['name']} | {_reason(row['refused'])} | {row['seconds']} s |"
    count = f"{row['paired']} + {row['statistics']}"
    left = f", {len(row['left'])} left" if row["left"] else ""
    plans = " | ".join(row["plans"])
    return (
        f"| {row['name']} | {count}{left} | {row['outputs']:.0e} | {row['gradients']:.0e} "
        f"| {plans} | {row['seconds']} s |"
    )


def _reason(text: str) -> str:
    lines = [part.strip() for part in text.splitlines()]
    kept = [part for part in lines if not part.startswith(("hint:", "last agreement"))]
    return "; ".join(kept)[:300].replace("|", "\\|")


def page(rows: list[dict[str, Any]]) -> str:
    """Write the page."""
    paired = [row for row in rows if not row["refused"]]
    refused = [row for row in rows if row["refused"]]
    changed = [row for row in paired if row["settings"]]
    names = [f"- **{row['name']}**: {' '.join(row['settings'])}" for row in changed]
    return "\n".join(
        [
            "# Networks of both frameworks, paired",
            "",
            f"{len(paired)} networks that exist in both frameworks, paired by `uf.pair` in small",
            "configurations, in double precision, with no table of names: torchvision and",
            "paddle.vision, transformers and PaddleNLP. *Paired* counts parameters + statistics;",
            "*left* are tensors that one side has and never uses, or holds twice. The certificate",
            "is the largest relative difference of an output and of a gradient when both run on",
            "values that no two tensors share, carried over by the pairing. The three plans",
            "(`only: head`; the first half of the blocks frozen; all norms frozen) were applied to",
            "both ports and every flag read back and compared along the pairing: *n frozen* means",
            "that the same n are frozen in both; - that both refuse the plan (no norms, no head).",
            "An error *on one side* means that one port refuses: it ties, or lacks, what the other",
            "has as a parameter of its own.",
            *[
                f"In {row['name']} one port's pooler is the first layer of the other's head, so the"
                f"\nplan for both is `only: head | pooler`: {row['head and pooler']}."
                for row in paired
                if "head and pooler" in row
            ],
            "",
            f"| network | paired | outputs | gradients | {' | '.join(PLANS)} | time |",
            "|---|---|---|---|---|---|---|---|",
            *map(line, paired),
            "",
            "## Settings that make two ports the same network",
            "",
            "As they come, these two ports differ; the factories in `tests/support/pairs/` take",
            "the settings as arguments.",
            "",
            *names,
            "",
            "## Refused",
            "",
            "Different networks, and the pairs above as they come. Nothing is paired; the reason",
            "is what `uf.pair` says.",
            "",
            "| network | what it says | time |",
            "|---|---|---|",
            *map(line, refused),
            "",
            "Written by `python -m tests.support.pairs.table`, which CI runs within a time budget.",
            "",
        ]
    )


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="pair every network of the zoo")
    parser.add_argument("names", nargs="*", help="only these; prints, and writes nothing")
    parser.add_argument("--write", action="store_true", help="renew the named ones on the page")
    parser.add_argument("--budget", type=float, help="seconds; the cheapest first")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    everything = {p.name: p for pair in PAIRS.values() for p in (pair, pair.original) if p}
    last = {row["name"]: row for row in json.loads(DATA.read_text())} if DATA.exists() else {}
    chosen = given.names or list(everything)
    if given.budget:
        chosen.sort(key=lambda name: last.get(name, {}).get("seconds", 1e9))
    rows, wrong, start = [], [], time.perf_counter()
    for name in chosen:
        if given.budget and time.perf_counter() - start > given.budget:
            print(f"out of time after {len(rows)} of {len(chosen)}")
            break
        row = run(everything[name])
        rows.append(row)
        wrong += [] if as_stated(everything[name], row) else [name]
        print(
            ("" if as_stated(everything[name], row) else "NOT AS STATED ") + line(row), flush=True
        )
        gc.collect()
        last[name] = row
        if given.write or not (given.names or given.budget):
            known = [last[name] for name in everything if name in last]
            DATA.write_text(json.dumps(known, indent=1) + "\n")
            PAGE.write_text(page(known))
    print(f"{len(rows)} pairs, {len(wrong)} not as stated: {', '.join(wrong)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
