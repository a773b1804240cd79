"""A command that takes long says on a terminal what it is doing, and nothing in a pipe."""

import io
import os
import pty
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from unifreeze._cli import output, waiting
from unifreeze._cli.progress_bars import progress_bars
from unifreeze._cli.waiting import WaitingLine, waiting_line

SLOW = """
import time
from torch import nn

time.sleep({seconds})
net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
"""


def seen_on_terminal(command, folder):
    """What a command writes to its standard error, which is a terminal; and its output."""
    ours, its = pty.openpty()
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=its, cwd=folder)
    os.close(its)
    seen = b""
    while True:
        try:
            piece = os.read(ours, 1024)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        seen += piece
    os.close(ours)
    return seen.decode(), run.communicate()[0].decode()


def test_a_slow_command_says_on_a_terminal_what_it_does_and_nothing_in_a_pipe(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW.format(seconds=3), encoding="utf-8")
    command = [sys.executable, "-W", "ignore", "-m", "unifreeze", "show", "./slow.py:net"]
    seen, out = seen_on_terminal(command, tmp_path)
    assert "unifreeze show: " in seen
    assert "s, building ./slow.py:net" in seen
    assert seen.endswith("\r\x1b[K")
    piped = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert piped.stdout == out
    assert piped.stderr == ""


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """A terminal as standard error, on which the line appears at once."""
    monkeypatch.setattr(waiting, "SECONDS", 0.0)
    monkeypatch.setattr(waiting, "EVERY", 0.01)
    stream = Terminal()
    # pytest itself replaces sys.stderr between a fixture and its test.
    monkeypatch.setattr(waiting, "sys", SimpleNamespace(stderr=stream))
    return stream


def wait_for(condition):
    """Wait until something is true; a minute is never needed."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_line_is_erased_before_anything_else_is_written(terminal, capsys):
    with waiting_line("step", 80):
        waiting.now("doing this")
        wait_for(lambda: "doing this" in terminal.getvalue())
        output.say("the result")
        before = terminal.getvalue()
        assert before.endswith("\r\x1b[K")
        time.sleep(0.1)
    assert terminal.getvalue() == before
    assert capsys.readouterr().out == "the result\n"


@pytest.mark.parametrize("write", [output.complain, output.say_plan, output.say_as_it_is])
def test_every_way_to_write_erases_it(terminal, write):
    with waiting_line("step", 80):
        wait_for(lambda: "unifreeze step: " in terminal.getvalue())
        write("text")
        kept = terminal.getvalue().removesuffix("text\n")
        assert kept.endswith("\r\x1b[K")


def test_bars_take_its_place_for_a_while(terminal):
    with waiting_line("pair", 80):
        wait_for(lambda: "unifreeze pair: " in terminal.getvalue())
        with progress_bars():
            before = terminal.getvalue().count("unifreeze pair: ")
            time.sleep(0.1)
            assert terminal.getvalue().count("unifreeze pair: ") == before
        wait_for(lambda: terminal.getvalue().count("unifreeze pair: ") > before)


def test_a_line_never_wraps(terminal):
    line = WaitingLine(terminal, "show", 20)
    line.now("building " + "a" * 100)
    line.start()
    wait_for(lambda: "unifreeze" in terminal.getvalue())
    line.stop()
    pieces = terminal.getvalue().split("\r\x1b[K")
    assert max(map(len, pieces)) == 19


def test_a_quick_command_shows_nothing(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with waiting_line("show", 80):
        waiting.now("building it")
    assert stream.getvalue() == ""
