"""What the command line answers to those who have read only the README."""

from pathlib import Path

import pytest
import typer

from tests.support.command_line import FOUR
from unifreeze._cli import app
from unifreeze._cli.examples import EXAMPLES

COMMANDS = [name for name in EXAMPLES if name != "backends"]
NEEDS = [name for name in COMMANDS if name != "schema"]
"""Commands that have arguments."""


def test_every_command_has_an_example():
    assert set(EXAMPLES) == set(typer.main.get_command(app).commands)


@pytest.mark.parametrize("command", NEEDS)
def test_what_is_missing_is_answered_with_an_example(cli, command):
    code, _, err = cli(command)
    assert code == 2
    assert f"For example: {EXAMPLES[command][0]}" in " ".join(err.split())


def test_a_missing_option_is_answered_with_an_example(cli):
    _, _, err = cli("port", "model.pt", "model.pdparams")
    assert "Missing option" in err
    assert EXAMPLES["port"][0] in " ".join(err.split())


def test_a_dot_before_the_function_is_to_be_a_colon(cli, head, four_blocks):
    _, _, err = cli("explain", head, "four_blocks.net_of_mine")
    assert "package.module:factory" in err
    _, _, err = cli("explain", head, "four_blocks.Net")
    assert "a colon comes before the function: ./four_blocks.py:Net" in err


def test_the_page_that_was_written_is_named(cli, head, four_blocks):
    code, out, _ = cli("explain", head, FOUR, "--html", "page.html")
    assert code == 0
    assert out.endswith("written to page.html\n")
    assert Path("page.html").exists()


def test_the_pairing_that_was_written_is_named(cli, four_blocks):
    model = "tests.support.kits.torch_kit:Plain"
    code, out, err = cli("pair", model, model, "--batch", "float32[8,6]", "-o", "pairing.json")
    assert code == 0, err
    assert out.endswith("written to pairing.json\n")
