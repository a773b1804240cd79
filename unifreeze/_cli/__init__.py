"""The command line, for people who do not want to write Python."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from unifreeze import __version__
from unifreeze._cli.align import align
from unifreeze._cli.cache import cache
from unifreeze._cli.capture import capture, expand, translate
from unifreeze._cli.encodings import print_in_any_encoding
from unifreeze._cli.examples import EXAMPLES, CommandWithExample
from unifreeze._cli.output import BUG, UNUSABLE, complain, width_of
from unifreeze._cli.pair import pair, port, sketch
from unifreeze._cli.parity import compare, parity, record
from unifreeze._cli.schema_and_backends import backends, schema
from unifreeze._cli.show import explain, show
from unifreeze._cli.step import step
from unifreeze._cli.suggest import suggest
from unifreeze._cli.waiting import waiting_line
from unifreeze.errors import UnifreezeError

WIDEST_HELP = 100
BROKEN_PIPE = 141
"""Exit code if the reader has closed the pipe: `unifreeze show MODEL | head`."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
"""Errors when a result is written; for example, the disk is full."""
app = typer.Typer(
    name="unifreeze",
    help="Write one freeze plan, run it on PyTorch and on PaddlePaddle, and know that it held.",
    epilog="Exit codes: 0 it holds, 1 it does not hold, 2 unusable input, 3 a bug in unifreeze.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its panels cut options off in narrow terminals
)


def _say_version(*, wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"unifreeze {__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=lambda wanted: _say_version(wanted=wanted),
            is_eager=True,
            help="Print the version and exit.",
        ),
    ] = False,
) -> None:
    pass


def _first_line(function: Callable[..., None]) -> str:
    return (function.__doc__ or "").partition("\n")[0]


def _examples(function: Callable[..., None]) -> str:
    lines = [f"  {example}" for example in EXAMPLES[function.__name__]]
    return "\n".join(["\b", "For example:", *lines])  # \b: lines to be copied stay whole


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
    align,
    cache,
    schema,
    backends,
):
    app.command(cls=CommandWithExample, short_help=_first_line(command), epilog=_examples(command))(
        command
    )


def _drop_output() -> None:
    """Discard what is left in the buffer, so that Python does not try to write it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    """Run the command line."""
    if sys.stdout is None:
        complain("Error: standard output is closed")
        sys.exit(UNUSABLE)
    print_in_any_encoding()
    try:
        try:
            with waiting_line(" ".join(sys.argv[1:2]), width_of(sys.stderr)):
                width = min(width_of(sys.stdout) or 80, WIDEST_HELP)
                app(prog_name="unifreeze", terminal_width=width)
        finally:
            if type(sys.stdout).__name__ == "PacifyFlushWrapper":  # typer's, which would end with 1
                raise BrokenPipeError
            sys.stdout.flush()  # here, where an error can still be reported
    except UnifreezeError as error:
        complain(f"Error: {type(error).__name__}: {error}")
        sys.exit(UNUSABLE)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        _drop_output()
        sys.exit(BROKEN_PIPE)
    except Exception as error:
        if isinstance(error, OSError) and error.filename is None and error.errno in _NO_ROOM:
            _drop_output()
            complain(f"Error: cannot write the result: {error.strerror}")
            sys.exit(UNUSABLE)
        import traceback

        traceback.print_exc()
        complain("This is a bug in unifreeze or in a backend; please report it.")
        sys.exit(BUG)
