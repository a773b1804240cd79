"""Fills every cell of the matrix, and writes its page."""

from __future__ import annotations

import argparse
import sys

from tests.support.matrix.page import PAGE, cells_on_page, text_of
from tests.support.matrix.table import fill_all, rows


def main() -> int:
    """Write the page, or print some rows; return 1 if a cell shows a fault."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="run the rows with this in their name")
    parser.add_argument("--framework", default="", help="PyTorch or Paddle alone")
    options = parser.parse_args()
    chosen = [
        row
        for row in rows()
        if options.only in row.name and options.framework in ("", row.framework)
    ]
    seen = fill_all(chosen)
    faults = 0
    for row in chosen:
        for column, text in seen[row.framework, row.name].items():
            faults += text.startswith("fault")
            print(f"{row.framework} | {row.name} | {column} | {text}", flush=True)
    print(f"{len(chosen)} rows, {faults} faults")
    before = cells_on_page(PAGE.read_text(encoding="utf-8")) if PAGE.exists() else {}
    right = {
        key: cells
        for key, cells in seen.items()
        if not any(text.startswith("fault") for text in cells.values())
    }
    known = before | right
    shown = [row for row in rows() if (row.framework, row.name) in known]
    PAGE.write_text(text_of(shown, known), encoding="utf-8")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
