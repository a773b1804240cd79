"""The phases of a plan as a table: when each begins, at which rate, and what trains in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unifreeze._cli.output import say_table
from unifreeze._plan import FreezePlan, Phase, describe_choice, settings_of
from unifreeze._resolution import Resolution
from unifreeze.errors import counted


def phase_rows(plan: FreezePlan, resolutions: Sequence[Resolution]) -> list[dict[str, Any]]:
    """Return a row for each phase.

    Args:
        plan: A plan with phases.
        resolutions: What each phase decides.
    """
    settings = settings_of(plan.phases, plan.rules, plan.norm_stats)
    rows = []
    for phase, held, resolution in zip(plan.phases, settings, resolutions, strict=True):
        trainable, total = resolution.counts()
        rows.append(
            {
                "name": phase.name,
                "begins": str(phase.entry) if phase.entry else "at once",
                "stop": phase.stop,
                "besides": _besides(phase),
                "lr": held.lr,
                "weight_decay": held.weight_decay,
                "parameters": int(resolution.trainable.sum()),
                "values": trainable,
                "share": trainable / total if total else 0.0,
                "units": _units(resolution),
            }
        )
    return rows


def say_phases(rows: Sequence[dict[str, Any]]) -> None:
    """Print the rows as a table."""
    header = ("phase", "begins", "rate", "decay", "trainable", "", "where")
    say_table(header, [_cells(row) for row in rows], left=(0, 1, 4, 6))


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    if row["stop"]:
        return row["name"], row["begins"], "", "", "training ends", "", ""
    return (
        row["name"],
        row["begins"],
        _number(row["lr"]),
        _number(row["weight_decay"]),
        counted(row["parameters"], "parameter"),
        f"{row['share']:.1%}",
        "; ".join([short_list(row["units"]), *row["besides"]]),
    )


def _besides(phase: Phase) -> list[str]:
    """Describe what a phase does that only a run can show."""
    notes = []
    if smallest := phase.freeze_smallest:
        notes.append(f"less {smallest.share}% of {describe_choice(smallest.of)} by gradient")
    if warmup := phase.warmup:
        divisor = f" from 1/{warmup.divisor:g}" if warmup.divisor else ""
        notes.append(f"warm-up of {warmup.steps}{divisor}")
    return [*notes, "from the best before"] if phase.restore_best else notes


def _units(resolution: Resolution) -> list[str]:
    """Return the parts of the network that train, from the input to the head."""
    return list(dict.fromkeys(name.partition("/")[0] for name in resolution.trainable_names))


def _number(value: float | None) -> str:
    return "as built" if value is None else f"{value:g}"


def short_list(units: Sequence[str]) -> str:
    """Name all units, or the first and the last two of many."""
    return " ".join(units) if len(units) <= 4 else f"{units[0]} … {' '.join(units[-2:])}"
