"""The page of traps names every rule that tests cite, and each test that it names exists."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "en" / "framework-traps.md").read_text("utf-8")
LABELS = {*(f"R{number}" for number in range(1, 13)), *"ABCDEFGHIJKLMNO"}


def entries():
    for entry in re.split(r"^### ", PAGE, flags=re.M)[1:]:
        yield entry.partition(".")[0], entry.partition("\n## ")[0]


def functions_of_tests():
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield node


def labels_in(text):
    """The rules that the docstring of a test cites: `R4, R11: …`, `B, C` or `G, M: …`."""
    cited = re.match(r"((?:R\d+|[A-O])(?:, (?:R\d+|[A-O]))*)(?::|$)", text)
    return set(cited[1].split(", ")) if cited else set()


def test_the_page_has_one_entry_for_each_rule():
    assert [label for label, _ in entries()] == sorted(
        LABELS, key=lambda label: (len(label) == 1, int(label[1:] or 0), label)
    )


def test_every_rule_that_a_test_cites_is_on_the_page():
    cited = [labels_in(ast.get_docstring(node) or "") for node in functions_of_tests()]
    assert sum(map(bool, cited)) > 100
    assert set().union(*cited) <= {label for label, _ in entries()}


def test_every_entry_says_what_happens_what_goes_wrong_what_we_do_and_what_holds_it():
    for label, entry in entries():
        framework = "PyTorch" if label[0] == "R" else "Paddle"
        words = re.findall(r"^- \*\*(.+?)\*\*:", entry, flags=re.M)
        assert words == [framework, "What goes wrong", "unifreeze", "Tests"], label


def test_every_test_that_the_page_names_exists():
    known = {node.name for node in functions_of_tests()}
    for label, entry in entries():
        named = re.findall(r"`(test_\w+)`", entry)
        assert named, label
        assert set(named) <= known, label
