"""Hostile weight files found by atheris, which keeps inputs that reach new lines of the parsers.

    python -m tests.support.fuzz.by_coverage pt --seconds 60

Needs the package `atheris`, which has wheels for Linux alone. What is worth keeping stands in
`corpus/`, a folder for each format; `tests/test_weight_file_corpus.py` reads all of it again.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

import atheris

PARSERS = ["pickle", "pickletools", "unifreeze._ports.weights", "unifreeze_torch"]
with atheris.instrument_imports(include=PARSERS):
    from unifreeze._ports.weights import open_weights
    from unifreeze.errors import UnifreezeError

CORPUS = Path(__file__).parent / "corpus"
SUFFIXES = ("safetensors", "pdparams", "pt", "bin")


def in_archive(pickled: bytes) -> bytes:
    """Return the archive that `torch.save` would write around a pickle and one storage."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, data in (("data.pkl", pickled), ("data/0", bytes(96)), ("version", b"3\n")):
            archive.writestr(f"w/{name}", data)
    return made.getvalue()


def main() -> None:
    """Fuzz the parser of one format; a crash, 5 s or 2 GiB end it with the input in a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suffix", choices=SUFFIXES)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--found", default="", help="a folder for inputs that reach new lines")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable()
    folder = Path(given.found or tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    path = Path(tempfile.mkdtemp()) / f"hostile.{given.suffix}"

    def read(data: bytes) -> None:
        path.write_bytes(in_archive(data) if given.suffix == "pt" and data[:1] != b"P" else data)
        try:
            with open_weights(path) as weights:
                for name in weights:
                    weights.read(name)
        except UnifreezeError:
            pass

    with atheris.instrument_imports(include=PARSERS):  # backends are imported by the first file
        for file in sorted((CORPUS / given.suffix).iterdir()):
            read(file.read_bytes())
    limits = ["-timeout=5", "-rss_limit_mb=2048", "-max_len=20000", "-print_final_stats=1"]
    settings = [f"-max_total_time={given.seconds}", f"-seed={given.seed}"]
    settings.append(f"-artifact_prefix={folder.parent}{os.sep}")
    folders = [str(folder), str(CORPUS / given.suffix)]
    atheris.Setup([sys.argv[0], *limits, *settings, *folders], read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
