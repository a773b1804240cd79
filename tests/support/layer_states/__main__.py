"""Print the table of layers whose state a forward pass changes."""

from __future__ import annotations

import argparse
import sys
import warnings

from tests.support.layer_states.page import PAGE, page, table


def main() -> None:
    """Print the page or write it; exit with 1 if anything in it is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE}")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    made = table()
    text = page(made)
    if given.write:
        PAGE.write_text(text, encoding="utf-8")
    else:
        print(text)
    sys.exit(any(row.wrong for row in made))


main()
