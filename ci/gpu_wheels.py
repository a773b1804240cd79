"""What a GPU machine without a network lacks: fetched elsewhere, carried along, put on the path.

    python ci/gpu_wheels.py fetch [3.12]     into .gpu-wheels, which git ignores: a folder for each
                                             distribution, unpacked, for that CPython on x86-64
    python ci/gpu_wheels.py path FOLDER      print the PYTHONPATH of ci/gpu.sh: this repository, and
                                             of what was fetched only what is not installed there

Nothing is installed. unifreeze's backends are found by the metadata that an installation leaves;
where there is none, it is written into FOLDER. Only the standard library is needed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WHEELS = ROOT / ".gpu-wheels"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
LIMIT = 64 * 2**20
"""What may be carried along, in bytes."""

ALONG = {"numpy"}
"""What PyTorch's own installation has; another release of it would not fit."""


def project() -> dict[str, Any]:
    """Return what pyproject.toml says of the project, with the version, which stands elsewhere."""
    file = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    code = (ROOT / file["tool"]["hatch"]["version"]["path"]).read_text("utf-8")
    (version,) = re.findall(r'^__version__ = "(.+)"$', code, re.MULTILINE)
    return {**file["project"], "version": version}


def plain(name: str) -> str:
    """Return a distribution's name as packaging compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needed() -> dict[str, str]:
    """Return the requirements of unifreeze, its command and its tests, by distribution."""
    table = project()
    lines = [*table["dependencies"], *table["optional-dependencies"]["cli"], "pytest"]
    return {plain(re.split(r"[^\w.-]", line)[0]): line for line in lines}


def installed(name: str) -> bool:
    """Tell whether a distribution is there."""
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def folder_for(version: str) -> Path:
    """Return where what is fetched for a release of Python lies: its compiled parts fit no other.

    >>> folder_for("3.12").name
    'cp312'
    """
    return WHEELS / f"cp{version.replace('.', '')}"


def fetch(version: str = "3.12") -> None:
    """Download wheels, and unpack each into a folder that is called after its distribution."""
    folder = folder_for(version)
    wanted = [line for name, line in needed().items() if name not in ALONG]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:"]
    command += ["--python-version", version, "--implementation", "cp"]
    command += [f"--platform={platform}" for platform in PLATFORMS]
    with tempfile.TemporaryDirectory() as download:
        command += ["--constraint", str(ROOT / "ci" / "constraints.txt"), "--dest", download]
        subprocess.run([*command, *wanted], check=True)
        shutil.rmtree(folder, ignore_errors=True)
        for wheel in sorted(Path(download).glob("*.whl")):
            name, release = wheel.name.split("-")[:2]
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder / plain(name))
            print(f"{plain(name)} {release}")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{size / 2**20:.1f} MiB in {folder}")
    if size > LIMIT:
        sys.exit(f"that is more than {LIMIT / 2**20:.0f} MiB")


def path(folder: Path) -> list[Path]:
    """Return what to put on the path; writes unifreeze's metadata into a folder if need be."""
    wheels = folder_for(here())
    found = [ROOT, ROOT / "backends"]
    if not installed("unifreeze"):
        write_metadata(folder)
        found.append(folder)
    carried = sorted(wheels.iterdir()) if wheels.is_dir() else []
    return [*found, *(each for each in carried if not installed(each.name))]


def write_metadata(folder: Path) -> None:
    """Write what an installation of unifreeze would leave for others to find it by."""
    table = project()
    info = folder / f"unifreeze-{table['version']}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    head = f"Metadata-Version: 2.1\nName: unifreeze\nVersion: {table['version']}\n"
    (info / "METADATA").write_text(head, encoding="utf-8")
    lines = []
    for group, entries in table["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")


def lacking(found: list[Path]) -> list[str]:
    """Name the requirements that are neither installed nor on the path."""
    carried = {each.name for each in found}
    return [name for name in needed() if name not in carried and not installed(name)]


def here() -> str:
    """Return the release of Python that runs this."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def main() -> None:
    """Run from the command line."""
    match sys.argv[1:]:
        case ["fetch", *version]:
            fetch(*version[:1])
        case ["path", folder]:
            found = path(Path(folder))
            if names := lacking(found):
                cure = f"run `make gpu-wheels GPU_PYTHON={here()}` where there is a network"
                sys.exit(f"not installed here: {', '.join(names)}\n{cure}, and bring .gpu-wheels")
            print(os.pathsep.join(map(str, found)))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
