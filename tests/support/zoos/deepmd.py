"""Descriptors of deepmd-kit, whose layers are all home-made, have equal names in both backends.

    pip install --no-deps --target FOLDER deepmd-kit==3.2.0 array-api-compat dargs ml_dtypes
    python -m tests.support.zoos.deepmd --packages FOLDER

Exits with 1 if the canonical names of DPA3 or DPA2 differ between PyTorch and PaddlePaddle, or if
the number of blocks is not the number of layers asked for. The library's compiled operators are
for another PyTorch; they are left out, for a description needs none.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from unifreeze._protocol import load_backend
from unifreeze._structure import ModelSpec

LAYERS = 3
BACKENDS = {"torch": "pt", "paddle": "pd"}
"""The frameworks, and what the library calls its backends."""
UNUSED = (
    "h5py",
    "wcmatch",
    "lmdb",
    "msgpack",
    "einops",
    "e3nn",
    "array_api_strict",
    "ase",
    "mendeleev",
    "scipy",
)
"""Packages that the library imports at once, and that these descriptors do not use."""


class _Anything(ModuleType):
    """A module that stands for a missing package: it holds whatever is imported from it."""

    __path__: Sequence[str] = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _StandIns:
    """Finds stand-ins for packages that are missing."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return the specification of a stand-in, for the unused packages alone."""
        missing = name.partition(".")[0] in UNUSED
        return ModuleSpec(name, self, is_package=True) if missing else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return a stand-in."""
        return _Anything(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: a stand-in has no code."""


def prepare(packages: str) -> None:
    """Make the library importable from a folder, without its compiled operators."""
    if packages:
        sys.path.append(packages)
    sys.meta_path.append(_StandIns())  # type: ignore[arg-type]
    operators = ModuleType("deepmd.pt.cxx_op")
    vars(operators)["ENABLE_CUSTOMIZED_OP"] = False
    sys.modules[operators.__name__] = operators


def descriptors(backend: str) -> Iterator[tuple[str, Any]]:
    """Yield small descriptors of one backend, with their names."""
    arguments = import_module("deepmd.dpmodel.descriptor.dpa3")
    flows = arguments.RepFlowArgs(
        n_dim=8, e_dim=6, a_dim=4, nlayers=LAYERS, e_sel=5, a_sel=3, axis_neuron=2
    )
    where = f"deepmd.{backend}.model.descriptor"
    yield "DPA3", import_module(f"{where}.dpa3").DescrptDPA3(ntypes=2, repflow=flows)
    arguments = import_module("deepmd.dpmodel.descriptor.dpa2")
    start = arguments.RepinitArgs(
        rcut=4.0, rcut_smth=0.5, nsel=8, neuron=[4, 8], axis_neuron=2, tebd_dim=4
    )
    formers = arguments.RepformerArgs(
        rcut=3.0, rcut_smth=0.5, nsel=4, nlayers=LAYERS, g1_dim=8, g2_dim=4, axis_neuron=2,
        attn1_hidden=4, attn1_nhead=1, attn2_hidden=4, attn2_nhead=1,
    )  # fmt: skip
    second = import_module(f"{where}.dpa2").DescrptDPA2
    yield "DPA2", second(ntypes=2, repinit=start, repformer=formers)


def faults(name: str, specs: dict[str, ModelSpec]) -> list[str]:
    """Say what is wrong with the descriptions of one descriptor in the two backends."""
    found = []
    for framework, spec in specs.items():
        blocks = [len(run.blocks) for run in spec.runs]
        if max(blocks, default=0) != LAYERS:
            found.append(f"{name} in {framework}: {blocks} blocks, not {LAYERS}")
    first, second = (
        {parameter.path: parameter.name for parameter in spec.parameters} for spec in specs.values()
    )
    unlike = sorted(at for at in first.keys() | second.keys() if first.get(at) != second.get(at))
    found += [f"{name}: {path}: {first.get(path)}, {second.get(path)}" for path in unlike]
    return found


def main() -> int:
    """Compare the backends and print what differs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--packages", default="", help="folder in which deepmd-kit is installed")
    prepare(parser.parse_args().packages)
    if find_spec("deepmd") is None:
        print("deepmd-kit is not installed; give its folder with --packages")
        return 1
    specs: dict[str, dict[str, ModelSpec]] = {}
    for framework, backend in BACKENDS.items():
        for name, model in descriptors(backend):
            specs.setdefault(name, {})[framework] = load_backend(framework).describe(model)
    found = [fault for name, sides in specs.items() for fault in faults(name, sides)]
    for name, sides in specs.items():
        spec = sides["torch"]
        runs = [
            f"{len(r.blocks)} {n}" for n, r in zip(spec.placement.labels, spec.runs, strict=True)
        ]
        print(f"{name}: {len(spec)} parameters, {', '.join(runs)}")
    print("\n".join(found) or "canonical names are equal in both backends")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
