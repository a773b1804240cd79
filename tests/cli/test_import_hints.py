"""What the command line advises where a model's package cannot be imported."""

import sys

import pytest

from unifreeze._cli.import_by_name import import_target
from unifreeze.errors import TargetError


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        ("operator torchvision::nms does not exist", "install both from one index"),
        ("/lib/_C.so: undefined symbol: _ZN2at4_ops5zerosE", "install both from one index"),
        ("no such option", "import it in Python"),
    ],
)
def test_a_package_for_another_build_of_its_framework_has_its_cure(
    tmp_path, monkeypatch, message, hint
):
    monkeypatch.setattr(sys, "path", list(sys.path))
    file = tmp_path / "built_for_another.py"
    file.write_text(f"raise RuntimeError({message!r})\n", encoding="utf-8")
    with pytest.raises(TargetError, match=hint):
        import_target(str(file), f"{file}:make")
