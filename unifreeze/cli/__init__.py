"""The command line: the same parts, for people who do not want to write Python."""

from __future__ import annotations

import sys

import typer

from unifreeze.cli.about import backends, schema
from unifreeze.cli.carry import capture, expand, translate
from unifreeze.cli.inspect import explain, show
from unifreeze.cli.output import BUG, UNUSABLE
from unifreeze.cli.pairing import pair, port, sketch
from unifreeze.cli.parity import compare, parity, record
from unifreeze.cli.stepping import step
from unifreeze.cli.suggesting import suggest
from unifreeze.errors import UnifreezeError

app = typer.Typer(
    name="unifreeze",
    help="Write one freeze plan, run it on PyTorch and on PaddlePaddle, and know that it held.",
    epilog="Exit codes: 0 it holds, 1 it does not hold, 2 unusable input, 3 a bug in unifreeze.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (
    show,
    explain,
    capture,
    suggest,
    translate,
    expand,
    parity,
    record,
    compare,
    pair,
    sketch,
    port,
    step,
    schema,
    backends,
):
    app.command()(command)


def main() -> None:
    """Run the command line."""
    try:
        app()
    except UnifreezeError as error:
        sys.stderr.write(f"Error: {type(error).__name__}: {error}\n")
        sys.exit(UNUSABLE)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception:
        import traceback

        traceback.print_exc()
        sys.stderr.write("This is a bug in unifreeze or in a backend; please report it.\n")
        sys.exit(BUG)
