"""Archives: the one that `torch.save` writes, around any pickle; and the corpus of weight files."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

SUFFIXES = ("safetensors", "pdparams", "pt", "bin")
CORPUS = Path(__file__).parent / "corpus"


def in_archive(data: bytes) -> bytes:
    """Return an archive with a pickle and one storage; what is an archive already stays as it is.

    So a fuzzer may change the pickle without breaking the archive's checksums.
    """
    if data[:1] == b"P":
        return data
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in (("data.pkl", data), ("data/0", bytes(96)), ("version", b"3\n")):
            archive.writestr(f"w/{name}", content)
    return made.getvalue()


def read_corpus(suffix: str) -> list[bytes]:
    """Return the hostile files of a format that are kept, and some good ones among them."""
    with zipfile.ZipFile(CORPUS / f"{suffix}.zip") as archive:
        return [archive.read(name) for name in archive.namelist()]


def keep_corpus(suffix: str, folder: Path) -> None:
    """Keep the files in a folder, too, the shortest first."""
    path = CORPUS / f"{suffix}.zip"
    known = read_corpus(suffix) if path.exists() else []
    both = sorted({*known, *(file.read_bytes() for file in folder.iterdir())})
    CORPUS.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, data in enumerate(sorted(both, key=len)):
            # With a date of its own, equal files would make other archives.
            archive.writestr(zipfile.ZipInfo(str(number)), data, zipfile.ZIP_DEFLATED)
