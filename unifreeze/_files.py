"""Files that are read only in the format that they should have, each by the class that wrote it."""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, ParamSpec, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from unifreeze._arguments import checked
from unifreeze._identity import WeakIdentityDict
from unifreeze._pictures import html_of
from unifreeze._tables import one_line
from unifreeze._whole_files import write_text, writing_hint
from unifreeze._wrong_files import START, looks_binary, looks_like, meant
from unifreeze.errors import ArgumentError, UnifreezeError, brief, cut

P = ParamSpec("P")
T = TypeVar("T")
_HALF_OF_A_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")
_MISTAKES_SHOWN = 6
_sources: WeakIdentityDict[str] = WeakIdentityDict()
"""The file that each value was read from; not a part of the value, which may equal another one."""
MOST_JSON = 256 * 2**20
"""Bytes of a JSON file that is read."""


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
        ValueError: It is too large, not text, or in another encoding; the message says what to do.
    """
    with path.open("rb") as file:
        data = file.read(at_most + 1)
    if len(data) > at_most:
        raise ValueError(f"it has more than {at_most:,} bytes")
    if kind := looks_binary(data[:START]):
        raise ValueError(f"it looks like {kind}, and not like text")
    try:
        return data.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        utf16 = data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        what = "UTF-16" if utf16 else "not UTF-8"
        raise ValueError(
            f"it is {what} (byte {error.start}): open it in an editor and save it as UTF-8"
        ) from None


def save_text(
    path: str | Path, text: str, *, error_class: type[UnifreezeError] = UnifreezeError
) -> None:
    """Write a text file; a reader sees all of it or the file that was there before.

    Raises:
        UnifreezeError: It cannot be written there; of the class that is given.
    """
    try:
        write_text(Path(path), text)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise error_class(f"cannot write {path}: {reason}", hint=writing_hint(error)) from None


def read_json(text: str) -> Any:
    """Read JSON with no key twice in one object, in Unicode, with whole numbers of 63 bits.

    Raises:
        ValueError: It is not; a `UnicodeEncodeError` is one.
        RecursionError: It is nested too deeply.
    """
    data = json.loads(text, parse_int=_whole_number, object_pairs_hook=unique_keys)
    if _HALF_OF_A_CHARACTER.search(text):
        json.dumps(data, ensure_ascii=False).encode("utf-8")
    return data


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse JSON with one key twice: an `object_pairs_hook`, which raises ValueError."""
    unique = dict(pairs)
    if len(unique) != len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"{brief(twice)} stands there twice")
    return unique


def _whole_number(digits: str) -> int:
    if len(digits) > 20 or abs(number := int(digits)) >= 2**63:
        raise ValueError(f"the number {cut(digits, 30)} has more than 63 bits")
    return number


def told_of_files(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function say which files contradict themselves, where its arguments came from files.

    Each part of a file is checked when it is read; that all parts name the same tensors shows only
    when they are used.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except (LookupError, ValueError, TypeError, ArithmeticError, AttributeError) as error:
            read = [row for row in (*args, *kwargs.values()) if isinstance(row, Saved)]
            files = [row for row in read if row.source]
            if isinstance(error, UnifreezeError) or not files:
                raise
            form = files[0].format
            raise form.error(
                f"{' and '.join(row.source for row in files)}: their parts do not fit together",
                context=f"{type(error).__name__}: {' '.join(str(error).split())}",
                hint=form.hint,
            ) from error

    return call


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

    @property
    def source(self) -> str:
        """The file that it was read from; "" for none."""
        return _sources.get(self, "")

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
        text = self.model_dump_json(indent=self.format.indent)
        save_text(path, text, error_class=self.format.error)

    @classmethod
    @checked
    def load(cls, path: str | Path) -> Self:
        """Read a file that `save` wrote.

        Raises:
            UnifreezeError: Of the format's own class: the file is missing, cut short, something
                else, or of another format version.
        """
        form, text = cls.format, ""
        try:
            text = read_text(Path(path))
            data = read_json(text)
        except OSError as error:
            message = f"cannot read {path}: {error.strerror or error}"
            raise form.error(message, hint=meant(Path(path), (".json",)) or form.hint) from None
        except (ValueError, RecursionError) as error:
            what = form.what.removeprefix("unifreeze ")
            message = f"{path} is not a complete {what}: {error}"
            if text and not text.lstrip().startswith(("{", "[")):
                kind = looks_like(text[:START].encode())
                message = f"{path} is not a {what}: it looks like {kind or 'no JSON'}"
            raise form.error(message, hint=form.hint) from None
        return cls.read(data, str(path))

    @classmethod
    @checked
    def read(cls, data: object, source: str) -> Self:
        """Check what was read elsewhere as plain data; raises as `load` does."""
        form = cls.format
        version = data.get(form.key) if isinstance(data, dict) else None
        if version is None or not isinstance(data, dict):
            named = [str(name) for name in data] if isinstance(data, dict) else []
            of = [name.replace("_", " ") for name in named if name.startswith("unifreeze_")]
            context = f"it looks like a {of[0]}" if of else ""
            raise form.error(f"{source} is not a {form.what}", context=context, hint=form.hint)
        if type(version) is not int or version != form.version:
            raise form.error(
                f"{source} is of {form.short} format {version}; this release reads {form.version}",
                hint=form.hint,
            )
        try:
            saved = cls(**data)
            _sources[saved] = source
            return saved
        except form.error as error:
            raise form.error(
                f"{source} is not a valid {form.what.removeprefix('unifreeze ')}",
                context=error.context,
                hint=form.hint,
            ) from None
