"""The lines of settings: which differences break a port, and which are known and harmless."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from unifreeze._evidence.alignment.lines import Line, Verdict
from unifreeze._evidence.report import StepReport
from unifreeze._ports.pairing.layer_settings import SettingDifference
from unifreeze.errors import listing

CORRECTED = ("running variance",)
"""Settings that the frameworks themselves differ in, and whose effect is taken out."""
BY_BATCH = ("padding_idx",)
"""Settings that show in gradients wherever a batch has the row in question, and nowhere else."""


def setting_lines(
    report: StepReport, frameworks: tuple[str, str], *, judged: Collection[str] = ()
) -> Iterator[Line]:
    """Yield a line for each setting that differs, and for layers that cannot be compared.

    Args:
        report: Of the step in double precision.
        frameworks: Of both models.
        judged: Settings that another section has judged.
    """
    broken = False
    for row in report.differences:
        known = row.setting in (*CORRECTED, *judged)
        verdict: Verdict = "BROKEN"
        if known or row.setting in BY_BATCH:
            verdict = "note" if known else "open"
        broken = broken or verdict == "BROKEN"
        facts: dict[str, str | int | float] = {
            "setting": row.setting,
            "one": str(row.one),
            "other": str(row.other),
            "count": len(row.layers),
        }
        layers = ", ".join(one for one, _ in row.layers[:3])
        more = "" if len(row.layers) <= 3 else ", …"
        details = (f"{layers}{more}", row.effect)
        yield Line(section="settings", key="setting", verdict=verdict, facts=facts, details=details)
    if not broken:
        yield Line(section="settings", key="settings agree", verdict="holds")
    if report.alone:
        count: dict[str, str | int | float] = {"count": len(report.alone)}
        alone = tuple(report.alone)
        yield Line(
            section="settings", key="random layers", verdict="open", facts=count, details=alone
        )
    if report.defaults:
        count = {"count": len(report.defaults)}
        rows = tuple(_default(row, *frameworks) for row in report.defaults)
        yield Line(section="settings", key="defaults", verdict="note", facts=count, details=rows)


def _default(row: SettingDifference, first: str, second: str) -> str:
    """Say how a default of optimizers differs, and in which framework it is what."""
    names = listing(name for name, _ in row.layers)
    return f"{row.setting} of {names}: {row.one} in {first}, {row.other} in {second}: {row.effect}"
