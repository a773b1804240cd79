"""Run the code of a notebook in IPython, cell by cell, and stop at the first error.

python -m tests.support.run_notebook examples/notebooks/port_ernie.ipynb
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def code_of(notebook: Path) -> list[str]:
    """The code cells of a notebook, in order."""
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def main(notebook: Path) -> int:
    from IPython.core.interactiveshell import InteractiveShell

    from examples.torchvision_on_cpu import import_torchvision

    import_torchvision()
    shell = InteractiveShell.instance()
    for number, code in enumerate(code_of(notebook)):
        if not shell.run_cell(code, silent=True).success:
            print(f"{notebook.name}: cell {number} failed")
            return 1
    print(f"{notebook.name}: {number + 1} cells ran")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
