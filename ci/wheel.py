"""Build wheel and sdist, check them as the index does, and try both in fresh environments.

On Python 3.11, 3.12 and 3.13, each where it is installed, the core is installed alone: first from
the wheel, then from the sdist. There a toy framework passes the contract. On the Python that runs
this, PyTorch and Paddle pass it from the wheel, too; they are lent from the environment this runs
in. The tests are copied out of the repository: only what was built can answer for the import.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile
from concurrent.futures import ThreadPoolExecutor
from email import message_from_bytes
from pathlib import Path

from index_readme import relative_links

ROOT = Path(__file__).resolve().parent.parent
RELEASES = ("3.11", "3.12", "3.13")
PACKAGES = ("unifreeze", "backends/unifreeze_torch", "backends/unifreeze_paddle")
TOY = Path("tests", "support", "toy_framework")
CORE = """
import sys
from pathlib import Path
import unifreeze
from tests.support.toy_framework.toy_models import kit
from unifreeze.testing import CONTRACT

assert Path(unifreeze.__file__).is_relative_to(sys.prefix), unifreeze.__file__
for check in CONTRACT:
    check(kit)
assert not {"torch", "paddle"} & set(sys.modules)
print(f"Python {sys.version.split()[0]}: {len(CONTRACT)} clauses of the contract hold, core alone")
"""


def run(*command: str | Path, cwd: Path = ROOT) -> None:
    """Run a command, and stop if it fails."""
    print("==", *command, flush=True)
    subprocess.run([str(part) for part in command], cwd=cwd, check=True)


def quiet(*command: str | Path, cwd: Path) -> str:
    """Run a command, and return what it prints; raise with all of it if it fails."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(" ".join(map(str, command)) + "\n" + done.stdout + done.stderr)
    return done.stdout


def build(folder: Path) -> tuple[Path, Path]:
    """Build the sdist, and the wheel from it; check that both hold what they should."""
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)
    tracked = quiet("git", "ls-files", *PACKAGES, cwd=ROOT).splitlines()
    expected = {name.removeprefix("backends/") for name in tracked}
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    if names != expected:
        sys.exit(f"the wheel lacks {sorted(expected - names)}, adds {sorted(names - expected)}")
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    if missing := set(quiet("git", "ls-files", cwd=ROOT).splitlines()) - held - {".ci/run"}:
        sys.exit(f"the sdist lacks {sorted(missing)}")
    check_readme(wheel)
    return wheel, sdist


def check_readme(wheel: Path) -> None:
    """Check that the index would show the README, and that none of its links is relative."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        text = message_from_bytes(archive.read(name)).get_payload()
    if not text.startswith("# unifreeze"):
        sys.exit("the metadata lacks README.md")
    if links := relative_links(text):
        sys.exit(f"the index cannot follow these links of README.md: {links}")


def interpreter(release: str) -> str | None:
    """Return a Python of a release, if this machine has one."""
    os.environ["PYENV_VERSION"] = release  # lets the commands that pyenv puts on PATH work
    for name in (sys.executable, f"python{release}"):
        code = "import sys; print(sys.executable, '%d.%d' % sys.version_info[:2])"
        try:
            done = subprocess.run([name, "-c", code], capture_output=True, text=True, check=False)
        except OSError:
            continue
        if done.stdout.endswith(f" {release}\n"):
            return done.stdout.rpartition(" ")[0]
    return None


def core_alone(python: str, wheel: Path, sdist: Path, folder: Path) -> str:
    """Install the core from the index's packages, from wheel and sdist, and run the contract."""
    quiet(python, "-m", "venv", folder, cwd=folder.parent)
    inside = folder / "bin" / "python"
    pins = ROOT / "ci" / "constraints.txt"
    pip = (inside, "-m", "pip", "install", "-q", "-c", pins)
    shutil.copytree(ROOT / TOY, folder / TOY)
    quiet(*pip, wheel, "hatchling", cwd=folder)
    quiet(*pip, "--no-deps", "--no-build-isolation", folder / TOY, cwd=folder)
    told = [quiet(inside, "-c", CORE, cwd=folder)]
    quiet(inside, "-m", "pip", "uninstall", "-q", "-y", "unifreeze", cwd=folder)
    quiet(*pip, "--no-build-isolation", f"{sdist}[cli]", cwd=folder)
    told.append(quiet(inside, "-c", CORE, cwd=folder))
    told.append(quiet(folder / "bin" / "unifreeze", "--version", cwd=folder))
    quiet(inside, "-m", "unifreeze", "schema", "--json", folder / "schema.json", cwd=folder)
    return "".join(told)


def with_frameworks(wheel: Path, folder: Path) -> None:
    """Install the wheel into a fresh environment, lend it the frameworks, and run the contract."""
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel)
    site = next((folder / "env").glob("lib/python*/site-packages"))
    (site / "lent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    tests = folder / "tests"
    shutil.copytree(ROOT / "tests" / "support" / "kits", tests / "support" / "kits")
    for file in ("conftest.py", "test_contract.py"):
        shutil.copy(ROOT / "tests" / file, tests / file)
    check = f"import unifreeze; assert {str(folder)!r} in unifreeze.__file__"
    run(python, "-c", check, cwd=folder)
    run(python, "-m", "pytest", "-q", "--import-mode=importlib", "tests", cwd=folder)
    run(python.parent / "unifreeze", "--version", cwd=folder)


def main() -> None:
    """Build, install, run."""
    with (
        tempfile.TemporaryDirectory(prefix="unifreeze-wheel-") as name,
        ThreadPoolExecutor() as pool,
    ):
        folder = Path(name)
        wheel, sdist = build(folder / "dist")
        pythons = {release: interpreter(release) for release in RELEASES}
        waiting = {
            release: pool.submit(core_alone, python, wheel, sdist, folder / release)
            for release, python in pythons.items()
            if python
        }
        with_frameworks(wheel, folder)
        for release in RELEASES:
            told = (
                waiting[release].result()
                if release in waiting
                else f"NOT RUN: no Python {release}\n"
            )
            print(told, end="")
    print("wheel and sdist hold")


if __name__ == "__main__":
    main()
