"""Files that are written whole or not at all, and read only in the format that they should have."""

from __future__ import annotations

import codecs
import errno
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from unifreeze._arguments import checked
from unifreeze._pictures import html_of
from unifreeze._tables import one_line
from unifreeze.errors import ArgumentError, UnifreezeError, brief

_MISTAKES_SHOWN = 6


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that gets its name only when it is complete and on the disk.

    On any error, including an interruption, the unfinished file is removed, and an older file of
    that name stays as it was.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not an ordinary file")
    unfinished = path.with_name(f".{path.name[:200]}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with unfinished.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def writing_hint(error: BaseException) -> str:
    """Return what to do about a file that cannot be written."""
    cures = {
        errno.ENAMETOOLONG: "give it a shorter name",
        errno.ENOSPC: "make room on the disk, or write it to another one",
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


def read_text(path: Path) -> str:
    """Read a text file, which is UTF-8 in every format here.

    Raises:
        OSError: It cannot be read.
        ValueError: It is in another encoding; the message says what to do.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        data = path.read_bytes()[:2]
        what = "UTF-16" if data in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "not UTF-8"
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

    _repr_html_ = html_of

    def __repr__(self) -> str:
        return one_line(self, f"a {self.format.what.removeprefix('unifreeze ')}")

    __str__ = __repr__

    @checked
    def save(self, path: str | Path) -> None:
        """Write it; a reader sees all of it or the file that was there before."""
        try:
            with whole_file(Path(path)) as file:
                file.write(self.model_dump_json(indent=self.format.indent).encode())
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
