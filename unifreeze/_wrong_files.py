"""Says of a file that cannot be read which one was likely meant, or what it looks like."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from unifreeze.errors import cut, listing, nearest

LFS = b"version https://git-lfs.github.com/spec/"
"""How the small file begins that Git LFS leaves in place of a large one."""
_KINDS = (
    (LFS, "a pointer that Git LFS left in place of a file"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"%PDF", "a PDF document"),
    (b"\x89HDF", "an HDF5 file, such as Keras writes"),
    (b"GGUF", "a GGUF file"),
    (b"\x93NUMPY", "a NumPy array (.npy)"),
    (b"PK\x03\x04", "a zip archive, as files of torch.save and np.savez are"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x7fELF", "a program"),
    (b"SQLite format 3", "an SQLite database"),
)
"""First bytes of files, and what such a file is."""
_MOST_ENTRIES = 20_000
"""Entries of a folder that are looked at for a name that was likely meant."""
START = 512
"""How many of a file's first bytes `looks_like` needs."""


def looks_like(start: bytes) -> str:
    r"""Return what a file looks like by its first bytes; "" for bytes of no known kind.

    >>> looks_like(b"rules:\n- only: head")
    "text, which starts with 'rules:'"
    >>> looks_like(b"\x89PNG"), looks_like(b"\x01\x02")
    ('a PNG picture', '')
    """
    if text := _text(start):
        line = next(filter(None, map(str.strip, text.splitlines())), "")
        return f"text, which starts with {cut(line, 40)!r}" if line else "blank text"
    return looks_binary(start)


def looks_binary(start: bytes) -> str:
    """Return what a file that is not text looks like; "" for text and for bytes of no known kind.

    >>> looks_binary(b"%PDF-1.4"), looks_binary(b"rules:")
    ('a PDF document', '')
    """
    for first, kind in _KINDS:
        if start.startswith(first):
            return kind
    if start[257:262] == b"ustar":
        return "a tar archive"
    if start[5:9] == b"\0\0\0{":
        return "a safetensors file"
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a pickle, as torch.save and paddle.save write"
    if len(start) > 8 and not start.strip(b"\0"):
        return "zeros, which a copy or a download that broke off leaves"
    return ""


def _text(start: bytes) -> str:
    """Return the text that the bytes are, the last character perhaps cut; "" for anything else."""
    utf16 = start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    decoder = codecs.getincrementaldecoder("utf-16" if utf16 else "utf-8-sig")()
    try:
        text = decoder.decode(start)
    except UnicodeDecodeError:
        return ""
    readable = all(letter.isprintable() or letter.isspace() for letter in text)
    return text if readable and not looks_binary(start) else ""


def appearance(path: Path) -> str:
    """Return what a file looks like, as `looks_like` does; "" where it cannot be read."""
    try:
        if not path.is_file():  # a pipe may never end
            return ""
        with path.open("rb") as file:
            return looks_like(file.read(START))
    except (OSError, ValueError):
        return ""


def meant(path: Path, suffixes: Sequence[str]) -> str:
    """Return the hint for a file or folder that is not there: which was likely meant.

    Args:
        path: The path as it was given.
        suffixes: How names of such files end; none for a folder.

    Returns:
        A sentence; "" if nothing beside the path is like it.
    """
    if not _is_folder(path.parent):
        near = likely(path.parent, ()) if _is_folder(path.parent.parent) else None
        lacking = f"there is no folder {path.parent}"
        if near and suffixes:
            inside = near / path.name
            near = inside if os.path.lexists(inside) else likely(inside, suffixes) or near
        return f"{lacking}, did you mean {near.as_posix()!r}?" if near else lacking
    if suffixes and _is_folder(path):
        names = [name for name in _entries(path, files=True) if name.endswith(tuple(suffixes))]
        there = listing(sorted((path / name).as_posix() for name in names), limit=3)
        return f"it is a folder; name a file in it: {there}" if names else ""
    near = None if os.path.lexists(path) else likely(path, suffixes)
    return f"did you mean {near.as_posix()!r}?" if near else ""


def likely(path: Path, suffixes: Sequence[str]) -> Path | None:
    """Return the entry beside `path` that was likely meant; None if no name is like it."""
    wanted = path.name.casefold()
    ends = (*suffixes, *filter(None, [path.suffix]))
    names = {
        name.casefold(): name
        for name in _entries(path.parent, files=bool(suffixes))
        if not suffixes or name.endswith(ends) or name.casefold().startswith(f"{wanted}.")
    }
    stems = (wanted, path.stem.casefold())
    same = [low for low in names if Path(low).stem in stems or low.startswith(f"{wanted}.")]
    by_stem = {Path(low).stem: low for low in names}
    close = [by_stem[stem] for stem in nearest(stems[1], by_stem, limit=1)]
    best = sorted(same)[:1] or close
    return path.with_name(names[best[0]]) if best else None


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _entries(folder: Path, *, files: bool) -> Iterator[str]:
    """Yield the names of files, or of folders; none where the system refuses to look."""
    try:
        with os.scandir(folder) as entries:
            for entry in islice(entries, _MOST_ENTRIES):
                if entry.is_file() if files else entry.is_dir():
                    yield entry.name
    except (OSError, ValueError):
        return
