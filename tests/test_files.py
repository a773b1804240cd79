"""Files that are written whole or not at all, and read only in the format they should have."""

import json

import pytest

from unifreeze._files import Format, Saved
from unifreeze._whole_files import whole_file
from unifreeze.errors import ArgumentError, RecordError


class Note(Saved):
    """A file of the simplest kind."""

    format = Format("unifreeze note", "unifreeze_note", 1, RecordError, "write it anew")

    unifreeze_note: int = 1
    text: str = ""


def test_a_file_comes_back(tmp_path):
    note = Note(text="über")
    note.save(tmp_path / "note.json")
    assert Note.load(tmp_path / "note.json") == note


def test_an_interrupted_write_leaves_the_older_file(tmp_path):
    Note(text="old").save(tmp_path / "note.json")

    def interrupted():
        with whole_file(tmp_path / "note.json") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert Note.load(tmp_path / "note.json").text == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["note.json"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not a complete note: "),
        ("[" * 100_000, "is not a complete note: "),
        ("[]", "is not a unifreeze note"),
        ('{"unifreeze_note": 2}', "is of note format 2; this release reads 1"),
        ('{"unifreeze_note": true}', "is of note format True"),
        ('{"unifreeze_note": 1.0}', r"is of note format 1\.0"),
        ('{"unifreeze_note": 1, "txet": ""}', r"is not a valid note\n.*txet"),
    ],
    ids=range(7),
)
def test_what_is_no_such_file_is_refused(content, words, tmp_path):
    (tmp_path / "note.json").write_text(content)
    with pytest.raises(RecordError, match=words):
        Note.load(tmp_path / "note.json")


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    for place in (tmp_path / "folder", tmp_path / "none" / "note.json", "."):
        with pytest.raises(RecordError, match="cannot write"):
            Note().save(place)
    with pytest.raises(ArgumentError, match="a path cannot hold"):
        Note().save("a\0b")
    with pytest.raises(RecordError, match="cannot read"):
        Note.load(tmp_path / "none.json")


def test_a_long_name_is_a_name(tmp_path):
    place = tmp_path / f"{'n' * 245}.json"
    Note().save(place)
    assert json.loads(place.read_text())["unifreeze_note"] == 1
