"""Files that are written whole or not at all, and read only in the format that they should have."""

from __future__ import annotations

import codecs
import errno
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedWriter
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, ClassVar, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from unifreeze._arguments import checked
from unifreeze._tables import one_line
from unifreeze.errors import ArgumentError, UnifreezeError, brief

try:
    import fcntl as _fcntl

    fcntl: ModuleType | None = _fcntl
except ImportError:  # Windows
    fcntl = None

_MISTAKES_SHOWN = 6
_UNFINISHED = ".unifreeze-unfinished."
MOST_JSON = 256 * 2**20
"""Bytes of a JSON file that is read."""


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that gets its name only when it is complete and on the disk.

    On any error, including an interruption, the unfinished file is removed, and an older file of
    that name stays as it was. A new file keeps the permissions of the older one, and a symbolic
    link stays a link. What killed writers left in the folder is removed.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not an ordinary file")
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    _clear_unfinished(path.parent)
    file, unfinished = _create_unfinished(path)
    try:
        yield file
        file.flush()
        os.fsync(file.fileno())
        if fcntl is None:
            file.close()  # Windows does not rename an open file
        unfinished.replace(path)
    except BaseException:
        _end(file, unfinished)
        raise
    file.close()


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all; pipes and devices are written to as they are.

    Raises:
        OSError: It cannot be written.
        ValueError: The text is not Unicode, or the path is none.
    """
    data = text.encode("utf-8")
    if path.exists() and not path.is_file() and not path.is_dir():
        path.write_bytes(data)
        return
    with whole_file(path) as file:
        file.write(data)


def _create_unfinished(path: Path) -> tuple[BufferedWriter, Path]:
    """Create a file beside `path`, locked, so that other writers know that it is in use."""
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else None
    while True:
        # Its name does not depend on the file's name, which may be as long as names can be.
        unfinished = path.with_name(f"{_UNFINISHED}{os.getpid()}.{secrets.token_hex(6)}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        number = os.open(unfinished, flags, 0o666 if mode is None else 0o600)
        file = os.fdopen(number, "wb")
        try:
            # Another writer may have taken the file for a left-over just before it was locked.
            if _lock(number) is not False and unfinished.exists():
                if mode is not None and hasattr(os, "fchmod"):
                    os.fchmod(number, mode)
                return file, unfinished
        except BaseException:
            _end(file, unfinished)
            raise
        file.close()


def _lock(number: int) -> bool | None:
    """Lock an open file; False where a writer has locked it, None where files have no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if isinstance(error, BlockingIOError) else None
    return True


def _end(file: BufferedWriter, unfinished: Path) -> None:
    """Close and remove an unfinished file, whose last bytes perhaps cannot be written."""
    with suppress(OSError):
        file.close()
    with suppress(OSError):
        unfinished.unlink(missing_ok=True)


def _clear_unfinished(folder: Path) -> None:
    """Remove what killed writers left in a folder: files that no writer has open."""
    with suppress(OSError), os.scandir(folder) as entries:
        left = [Path(e.path) for e in entries if e.name.startswith(_UNFINISHED) and e.is_file()]
        for unfinished in left:
            with suppress(OSError):
                if fcntl is None:
                    unfinished.unlink()  # Windows refuses this for an open file
                    continue
                with unfinished.open("rb") as file:
                    if _lock(file.fileno()):
                        unfinished.unlink()


def writing_hint(error: BaseException) -> str:
    """Return what to do about a file that cannot be written."""
    cures = {
        errno.ENAMETOOLONG: "give it a shorter name",
        errno.ENOSPC: "make room on the disk, or write it to another one",
        errno.EDQUOT: "make room on the disk, or write it to another one",
        errno.EFBIG: "the system limits the size of files: ulimit -f",
        errno.ENOENT: "make its folder first: path.parent.mkdir(parents=True)",
        errno.ENOTDIR: "a part of its path is a file: give it another one",
    }
    return cures.get(getattr(error, "errno", None) or 0, "give a file in a folder of yours")


def is_file(path: Path) -> bool:
    """Return whether there is a file; False where the system refuses to look."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Return whether there is a folder; False where the system refuses to look."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def read_text(path: Path, *, at_most: int = MOST_JSON) -> str:
    """Read a text file, which is UTF-8 in every format here.

    Args:
        path: The file.
        at_most: How many bytes it may have.

    Raises:
        OSError: It cannot be read.
        ValueError: It is too large, or in another encoding; the message says what to do.
    """
    with path.open("rb") as file:
        data = file.read(at_most + 1)
    if len(data) > at_most:
        raise ValueError(f"it has more than {at_most:,} bytes")
    try:
        return data.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        utf16 = data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        what = "UTF-16" if utf16 else "not UTF-8"
        raise ValueError(
            f"it is {what} (byte {error.start}): open it in an editor and save it as UTF-8"
        ) from None


class Row(BaseModel):
    """Plain data that never changes; a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class Format(NamedTuple):
    """How to recognise one sort of file.

    Attributes:
        what: What such a file is called in messages: "unifreeze record".
        key: The key under which its format's version stands; every release writes it.
        version: The version that this release writes and reads.
        error: What is raised for a file that cannot be read or written.
        hint: What to do about such a file.
        indent: Spaces of indentation for each level; None for a file that people do not read.
    """

    what: str
    key: str
    version: int
    error: type[UnifreezeError]
    hint: str
    indent: int | None = 1

    @property
    def short(self) -> str:
        """The name of the sort without "unifreeze": "record"."""
        return self.key.removeprefix("unifreeze_")


class Saved(Row):
    """Plain data that is saved as a file with a format version."""

    format: ClassVar[Format]

    def __init__(self, /, *wrong: Any, **data: Any) -> None:
        """Make it from its parts.

        Raises:
            UnifreezeError: Of the format's own class: the parts do not make one.
        """
        form = self.format
        if wrong:
            raise ArgumentError(
                f"{type(self).__name__}(): {brief(wrong[0])} is not the name of a part",
                hint=f'read a file: {type(self).__name__}.load("{form.short}.json")',
            )
        try:
            super().__init__(**data)
        except ValidationError as error:
            lines = [
                f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}"
                for detail in error.errors(include_url=False)
            ]
            raise form.error(
                f"these parts do not make a valid {form.short}",
                context="\n".join(lines[:_MISTAKES_SHOWN]),
                hint=f'read a file: {type(self).__name__}.load("{form.short}.json")',
            ) from None

    def __repr__(self) -> str:
        return one_line(self, f"a {self.format.what.removeprefix('unifreeze ')}")

    __str__ = __repr__

    @checked
    def save(self, path: str | Path) -> None:
        """Write it; a reader sees all of it or the file that was there before."""
        try:
            write_text(Path(path), self.model_dump_json(indent=self.format.indent))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            message = f"cannot write {path}: {reason}"
            raise self.format.error(message, hint=writing_hint(error)) from None

    @classmethod
    @checked
    def load(cls, path: str | Path) -> Self:
        """Read a file that `save` wrote.

        Raises:
            UnifreezeError: Of the format's own class: the file is missing, cut short, something
                else, or of another format version.
        """
        form = cls.format
        try:
            data = json.loads(read_text(Path(path)))
        except OSError as error:
            message = f"cannot read {path}: {error.strerror or error}"
            raise form.error(message, hint=form.hint) from None
        except (ValueError, RecursionError) as error:
            message = f"{path} is not a complete {form.what.removeprefix('unifreeze ')}: {error}"
            raise form.error(message, hint=form.hint) from None
        return cls.read(data, str(path))

    @classmethod
    @checked
    def read(cls, data: object, source: str) -> Self:
        """Check what was read elsewhere as plain data; raises as `load` does."""
        form = cls.format
        version = data.get(form.key) if isinstance(data, dict) else None
        if version is None or not isinstance(data, dict):
            raise form.error(f"{source} is not a {form.what}", hint=form.hint)
        if type(version) is not int or version != form.version:
            raise form.error(
                f"{source} is of {form.short} format {version}; this release reads {form.version}",
                hint=form.hint,
            )
        try:
            return cls(**data)
        except form.error as error:
            raise form.error(
                f"{source} is not a valid {form.what.removeprefix('unifreeze ')}",
                context=error.context,
                hint=form.hint,
            ) from None
