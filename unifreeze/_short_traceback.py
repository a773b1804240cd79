"""The traceback of an error as a notebook shows it: the user's lines, and the message."""

from __future__ import annotations

import linecache
import re
import sys
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Any

_OURS = re.compile(r"unifreeze(_\w+)?")
"""Packages whose frames are left out: the core and its backends."""
_NOTEBOOK = ("IPython", "ipykernel")
_INSTALLED = ("site-packages", "dist-packages")
"""Folders of libraries, whose frames are left out, too: a trainer's are many."""
_SHORT_MODES = ("Context", "Minimal")
"""Modes of IPython's `%xmode` in which errors are short; "Context" is its default."""
ON_REQUEST = "(full traceback: %xmode Plain, then %tb; short again: %xmode Context)"


def short_traceback(error: BaseException) -> list[str]:
    """Return the lines that a notebook shows of an error, or all if the user has asked for them.

    Args:
        error: The error; its message says what is wrong, and what to write.
    """
    shell = _shell()
    mode = getattr(getattr(shell, "InteractiveTB", None), "mode", None)
    if mode not in _SHORT_MODES:
        return _whole(error, shell)
    lines = [_place(frame, line, shell) for frame, line in _users_frames(error.__traceback__)]
    lines.append("".join(traceback.format_exception_only(error)).rstrip("\n"))
    if error.__cause__ is not None:
        lines.append(f"  because of {type(error.__cause__).__name__}: {error.__cause__}")
    return [*lines, "", ON_REQUEST]


def _shell() -> Any:
    """Return IPython's shell; None outside of it. IPython is never imported for that."""
    ipython = sys.modules.get("IPython")
    return None if ipython is None else ipython.get_ipython()


def _whole(error: BaseException, shell: Any) -> list[str]:
    """Return the traceback that IPython itself would show, or Python's where it has none."""
    kind, frames = type(error), error.__traceback__
    try:
        lines = shell.InteractiveTB.structured_traceback(kind, error, frames, tb_offset=1)
        return [str(line) for line in lines]
    except Exception:
        return "".join(traceback.format_exception(error)).splitlines()


def _users_frames(frames: TracebackType | None) -> Iterator[tuple[Any, int]]:
    """Yield the user's frames before the first of ours."""
    for frame, line in traceback.walk_tb(frames):
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if _OURS.fullmatch(package):
            return
        installed = any(folder in frame.f_code.co_filename for folder in _INSTALLED)
        if package not in _NOTEBOOK and not installed:
            yield frame, line


def _place(frame: Any, line: int, shell: Any) -> str:
    """Write where a frame stands, and its line."""
    code = frame.f_code
    where = _cell(code.co_filename, shell) or code.co_filename
    name = "" if code.co_name == "<module>" else f" in {code.co_name}"
    text = linecache.getline(code.co_filename, line, frame.f_globals).strip()
    return f"{where}, line {line}{name}:\n    {text}"


def _cell(file: str, shell: Any) -> str:
    """Return the name of a cell, such as "Cell In[7]"; "" for a file."""
    try:
        words = shell.compile.format_code_name(file)
        return " ".join(words) if words else ""
    except Exception:  # another release of IPython may not name its cells so
        return ""
