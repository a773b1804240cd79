"""Print a report of parity or of a step, and end with the exit code that it stands for."""

from __future__ import annotations

import typer

from unifreeze._cli.output import BROKEN, say, write_json
from unifreeze._evidence import Report, StepReport


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
