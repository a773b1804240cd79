"""Hostile weight files found by atheris, which keeps inputs that reach new lines of the parsers.

    python -m tests.support.fuzz.by_coverage pt --seconds 60

Needs the package `atheris`, which has wheels for Linux alone. It begins with the files in
`corpus/`, an archive for each format; `--keep` puts into it what was found before, in `--found`.
`tests/test_weight_file_corpus.py` reads all of them again.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

from tests.support.fuzz.archives import SUFFIXES, in_archive, keep_corpus, read_corpus

PARSERS = ["pickle", "pickletools", "unifreeze._ports.weights", "unifreeze_torch"]
with atheris.instrument_imports(include=PARSERS):
    from unifreeze._ports.weights import open_weights
    from unifreeze.errors import UnifreezeError


def main() -> None:
    """Fuzz the parser of one format; a crash, 5 s or 2 GiB end it with the input in a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suffix", choices=SUFFIXES)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--found", default="", help="a folder for inputs that reach new lines")
    parser.add_argument("--keep", action="store_true", help="only add what was found")
    given = parser.parse_args()
    if given.keep:
        keep_corpus(given.suffix, Path(given.found))
        return
    warnings.simplefilter("ignore")
    logging.disable()
    folder = Path(given.found or tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    known = Path(tempfile.mkdtemp())
    for number, data in enumerate(read_corpus(given.suffix)):
        (known / str(number)).write_bytes(data)
    path = Path(tempfile.mkdtemp()) / f"hostile.{given.suffix}"

    def read(data: bytes) -> None:
        path.write_bytes(in_archive(data) if given.suffix == "pt" else data)
        try:
            with open_weights(path) as weights:
                for name in weights:
                    weights.read(name)
        except UnifreezeError:
            pass

    with atheris.instrument_imports(include=PARSERS):  # backends are imported by the first file
        for data in read_corpus(given.suffix):
            read(data)
    limits = ["-timeout=5", "-rss_limit_mb=2048", "-max_len=20000", "-print_final_stats=1"]
    settings = [f"-max_total_time={given.seconds}", f"-seed={given.seed}"]
    settings.append(f"-artifact_prefix={folder.parent}{os.sep}")
    atheris.Setup([sys.argv[0], *limits, *settings, str(folder), str(known)], read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
