"""Build the wheel, install it clean, and run the contract from it.

The wheel goes into a fresh environment of its own. What unifreeze depends on, the frameworks
included, is lent to it from the environment this runs in; unifreeze itself is not: the tests are
copied out of the repository, so that only the wheel can answer for the import.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXPECTED = {
    "unifreeze/__init__.py",
    "unifreeze/__main__.py",
    "unifreeze/py.typed",
    "unifreeze/_plan/selectors/grammar.lark",
    "unifreeze_torch/__init__.py",
    "unifreeze_torch/py.typed",
    "unifreeze_paddle/__init__.py",
    "unifreeze_paddle/py.typed",
}


def run(*command: str | Path, cwd: Path = ROOT) -> None:
    """Run a command, and stop if it fails."""
    print("==", *command, flush=True)
    subprocess.run([str(part) for part in command], cwd=cwd, check=True)


def build(folder: Path) -> Path:
    """Build the wheel, and check that it holds what it should and nothing else."""
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder)
    (wheel,) = folder.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    missing = EXPECTED - names
    tops = {name.split("/")[0] for name in names}
    foreign = {top for top in tops if not top.startswith("unifreeze")}
    if missing or foreign:
        sys.exit(f"the wheel lacks {sorted(missing)} and has no business with {sorted(foreign)}")
    return wheel


def install(wheel: Path, folder: Path) -> Path:
    """Install the wheel into a fresh environment, and lend it the dependencies."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "lent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    return python


def main() -> None:
    """Build, install, run."""
    with tempfile.TemporaryDirectory(prefix="unifreeze-wheel-") as name:
        folder = Path(name)
        wheel = build(folder / "dist")
        python = install(wheel, folder / "env")
        tests = folder / "tests"
        shutil.copytree(ROOT / "tests" / "support" / "kits", tests / "support" / "kits")
        for file in ("conftest.py", "test_contract.py"):
            shutil.copy(ROOT / "tests" / file, tests / file)
        where = "import unifreeze, pathlib; print(pathlib.Path(unifreeze.__file__).parent)"
        run(python, "-c", where, cwd=folder)
        check = f"import unifreeze; assert {str(folder)!r} in unifreeze.__file__"
        run(python, "-c", check, cwd=folder)
        run(python, "-m", "pytest", "-q", "--import-mode=importlib", "tests", cwd=folder)
        run(python.parent / "unifreeze", "--version", cwd=folder)
        run(python, "-m", "unifreeze", "schema", "--json", folder / "schema.json", cwd=folder)
    print("the wheel holds")


if __name__ == "__main__":
    main()
