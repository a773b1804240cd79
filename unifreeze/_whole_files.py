"""Files written whole or not at all: a reader sees all of the new file, or the old one."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedWriter
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

try:
    import fcntl as _fcntl

    fcntl: ModuleType | None = _fcntl
except ImportError:  # Windows
    fcntl = None

_UNFINISHED = ".unifreeze-unfinished."


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that gets its name only when it is complete and on the disk.

    On any error, including an interruption, the unfinished file is removed, and an older file of
    that name stays as it was. A new file keeps the permissions of the older one, and a symbolic
    link stays a link. What killed writers left in the folder is removed.

    Raises:
        OSError: It cannot be written there.
    """
    _check_name(path)
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not an ordinary file")
    if path.is_symlink():
        path = Path(os.path.realpath(path))
        if path.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    clear_unfinished(path.parent)
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


def _check_name(path: Path) -> None:
    """Refuse a name with characters that no file's name has, such as half of one."""
    try:
        possible = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise OSError(errno.EINVAL, "no file can have this name")


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


def clear_unfinished(folder: Path) -> None:
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
        errno.ELOOP: "it is a symbolic link that leads back to itself: remove it",
        errno.ENOTDIR: "a part of its path is a file: give it another one",
    }
    return cures.get(getattr(error, "errno", None) or 0, "give a file in a folder of yours")
