"""The diagram in docs/en/how-it-works.md, from traces: which folder calls which, and for what.

    python -m tests.support.ways --write

Small models are taken through `apply`, `parity` and `pair` while every call from one folder of the
project into another is noted. Folders that nearly all others use are left out of the picture, and
the two backends are one.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import unifreeze as uf
from tests.support.kits import paddle_kit, torch_kit
from tests.support.pairs import small

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "en" / "how-it-works.md"
FENCE = re.compile(r"```mermaid\n(.*?)```", re.S)
EDGE = re.compile(r"^ *(\w+) -->\|([\w, ]+)\| (\w+)$", re.M)
EVERYWHERE = {"errors", "_arguments", "_tables", "_identity", "_undo", "_files"}
EVERYWHERE |= {"_structure", "_numerics"}
USER, BACKEND = "you", "a_backend"

Edges = dict[tuple[str, str], set[str]]


def apply() -> None:
    """Put a plan in force on one model, and verify it."""
    handle = uf.FreezePlan().only("head").apply(torch_kit.kit.plain.make())
    handle.verify()


def parity() -> None:
    """Run one plan on one network of each framework, and compare what happened."""
    models = torch_kit.kit.plain.make(), paddle_kit.kit.plain.make()
    uf.check_parity(uf.FreezePlan().only("head"), *models, batch=torch_kit.kit.plain.batch)


def pair() -> None:
    """Pair the tensors of two ports of one network."""
    uf.pair(small.torch_image(), small.paddle_image(), batch="float32[3,3,7,7]")


WAYS: dict[str, Callable[[], None]] = {"apply": apply, "parity": parity, "pair": pair}


def folder_of(frame: FrameType) -> str | None:
    """Return which folder of the project a frame's code stands in; None if in no folder shown."""
    file = Path(frame.f_code.co_filename)
    if not file.is_relative_to(ROOT):
        return None
    top, *rest = file.relative_to(ROOT).parts
    if top == "backends":
        return BACKEND
    if top != "unifreeze" or rest[0].startswith("__") or Path(rest[0]).stem in EVERYWHERE:
        return None
    return Path(rest[0]).stem


def calls(way: Callable[[], None]) -> set[tuple[str, str]]:
    """Return which folder called into which while a function ran."""
    seen: set[tuple[str, str]] = set()
    folders: dict[str, str | None] = {}

    def folder(frame: FrameType) -> str | None:
        file = frame.f_code.co_filename
        if file not in folders:
            folders[file] = folder_of(frame)
        return folders[file]

    def note(frame: FrameType, event: str, _argument: object) -> None:
        if event != "call" or (callee := folder(frame)) is None:
            return
        caller, above = None, frame.f_back
        while above is not None and caller is None:
            caller, above = folder(above), above.f_back
        if callee != caller:
            seen.add((caller or USER, callee))

    sys.setprofile(note)
    try:
        way()
    finally:
        sys.setprofile(None)
    return seen


def traced() -> Edges:
    """Return each call from folder to folder, with the ways on which it is made."""
    for way in WAYS.values():  # once before, so that nothing is loaded while it is watched
        way()
    edges: Edges = {}
    for name, way in WAYS.items():
        for edge in calls(way):
            edges.setdefault(edge, set()).add(name)
    return edges


def drawn(text: str) -> Edges:
    """Return the edges of the diagram in a page."""
    blocks = FENCE.findall(text)
    assert len(blocks) == 1, "one diagram"
    return {(a, b): set(names.split(", ")) for a, names, b in EDGE.findall(blocks[0])}


def diagram(edges: Edges) -> str:
    """Write the edges as a Mermaid flowchart, in the order of the three ways."""
    names = list(WAYS)
    rows = sorted(edges.items(), key=lambda row: (min(map(names.index, row[1])), *row[0]))
    lines = [f"    {a} -->|{', '.join(sorted(w, key=names.index))}| {b}" for (a, b), w in rows]
    return "```mermaid\nflowchart TD\n" + "\n".join(lines) + "\n```"


def main() -> None:
    """Print the diagram, or put it into the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help=f"write {PAGE}")
    block = diagram(traced())
    if parser.parse_args().write:
        PAGE.write_text(FENCE.sub(lambda _: block, PAGE.read_text("utf-8")), encoding="utf-8")
    else:
        print(block)


if __name__ == "__main__":
    main()
