"""Weight files that `make atheris` has found: each reaches other lines of the parsers."""

import pytest

from tests.support.fuzz.archives import SUFFIXES, in_archive, read_corpus
from unifreeze._ports.weights import open_weights
from unifreeze.errors import UnifreezeError


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_hostile_file_is_read_or_refused(suffix, tmp_path):
    path, messages, read = tmp_path / f"hostile.{suffix}", [], 0
    for data in read_corpus(suffix):
        path.write_bytes(in_archive(data) if suffix == "pt" else data)
        try:
            with open_weights(path) as weights:
                for name in weights:
                    weights.read(name)
            read += 1
        except UnifreezeError as error:
            messages.append(str(error))
    assert read
    assert len(messages) > 20
    assert max(map(len, messages)) < 4000
