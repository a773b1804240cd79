"""Print a report of parity or of a step, and end with the exit code that it stands for."""

from __future__ import annotations

import typer

from unifreeze._cli.output import BROKEN, say, write_json
from unifreeze._evidence import Report, StepReport
from unifreeze.errors import counted


def print_reports(reports: list[Report], json: str) -> None:
    """Print several reports of one first side, one after the other; then as `print_report`."""
    if len(reports) == 1:
        print_report(reports[0], json)
        return
    holds = all(report.holds for report in reports)
    if json:
        data = [report.to_json() for report in reports]
        write_json({"holds": holds, "comparisons": data}, json)
    if json != "-":
        for report in reports:
            say(f"{report}\n{report.summary}\n")
        many = counted(len(reports), "comparison with the first", "comparisons with the first")
        broken = sum(not report.holds for report in reports)
        style = "bold green" if holds else "bold red"
        say(f"parity holds in {len(reports) - broken} of {many}", style=style)
    if not holds:
        raise typer.Exit(BROKEN)


def print_report(report: Report | StepReport, json: str) -> None:
    """Print a report as text, write it as JSON where that was asked for, and end the command.

    Args:
        report: The report.
        json: The file for the JSON; "-" prints it instead of the text, "" writes none.

    Raises:
        Exit: The report does not hold.
    """
    if json:
        write_json(report.to_json(), json)
    if json != "-":
        say(str(report))
        say(report.summary, style="bold green" if report.holds else "bold red")
    if not report.holds:
        raise typer.Exit(BROKEN)
