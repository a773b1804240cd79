"""Language models of transformers and of PaddleFormers, paired across two environments.

PaddleFormers hides PyTorch from transformers in its process and needs other releases of both, so
each side runs where its library is, and only files travel: sketches, decisions, weights, outputs.

    python -m tests.support.pairs.formers PYTHON           PYTHON has PaddleFormers; writes the page
    python -m tests.support.pairs.formers PYTHON Qwen3     renews these on it

`ci/formers.sh` makes that environment. PaddleFormers holds query, key and value in one tensor, and
gate and up in another; transformers holds them apart.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[3]
PAGE, DATA = ROOT / "docs" / "en" / "pairs-formers.md", ROOT / "docs" / "pairs-formers.json"
BATCH = "input_ids=int64[2,12]<5:90>"
PLANS = {
    "head only": "only: head",
    "first block": "freeze: blocks[0]",
    "norms": "freeze: norm",
}
SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
ON_CPU = {"fuse_rms_norm": False, "_attn_implementation": "eager"}
"""PaddleFormers' defaults take kernels that only its GPU build has."""


class Case(NamedTuple):
    """One network: a class that both libraries have under one name, and settings."""

    model: str
    settings: dict[str, Any]

    def target(self, side: str) -> str:
        """Return the model as the command line takes it."""
        given = ", ".join([repr(self.model), *(f"{k}={v!r}" for k, v in self.settings.items())])
        return f"tests.support.pairs.formers:{side}_model({given})"


CASES = {
    "ERNIE 4.5": Case("Ernie4_5ForCausalLM", {}),
    "ERNIE 4.5, a key for every query": Case("Ernie4_5ForCausalLM", {"num_key_value_heads": 4}),
    "ERNIE 4.5, one key for all": Case("Ernie4_5ForCausalLM", {"num_key_value_heads": 1}),
    "Llama": Case("LlamaForCausalLM", {}),
    "Qwen2": Case("Qwen2Model", {}),
    "Qwen3": Case("Qwen3Model", {}),
}


def torch_model(model: str, **changes: Any) -> Any:
    """Build the small model of a class of transformers."""
    from examples.torchvision_on_cpu import import_torchvision

    import_torchvision()
    import transformers

    config_class = getattr(transformers, model).config_class
    return getattr(transformers, model)(config_class(**SIZES | changes)).eval()


def paddle_model(model: str, **changes: Any) -> Any:
    """Build the small model of a class of PaddleFormers."""
    if model.startswith("Qwen"):
        _stand_in_for_paddlefleet()
    from paddleformers import transformers

    config_class = getattr(transformers, model).config_class
    made = getattr(transformers, model)(config_class(**SIZES | ON_CPU | changes))
    made.eval()
    return made


def _stand_in_for_paddlefleet() -> None:
    """Let Qwen be imported without paddlefleet: no registry has it, and no layer here uses it."""
    from types import ModuleType

    import paddleformers

    name = f"{paddleformers.__name__}.transformers.gpt_provider"
    stand_in = ModuleType(name)
    stand_in.GPTModelProvider = type("GPTModelProvider", (), {})  # type: ignore[attr-defined]
    sys.modules[name] = stand_in


def save_weights(target: str, file: str) -> None:
    """Write a transformers model's weights, moved away from their initial values."""
    import torch
    from safetensors.torch import save_file

    from unifreeze._cli.find_model import load_model

    model = load_model(target)[0]
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.uniform_(-0.5, 0.5)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, file)


def save_outputs(target: str, weights: str, file: str) -> None:
    """Load a weight file by the framework's own means and write the model's outputs."""
    from unifreeze._cli.find_model import load_model, read_batch

    model, backend = load_model(target)
    if backend.name == "torch":
        from safetensors.torch import load_file

        model.load_state_dict(load_file(weights), strict=True)
    else:
        import paddle

        missing, unexpected = model.set_state_dict(paddle.load(weights))
        assert (missing, unexpected) == ([], [])
    batch = read_batch([BATCH])
    assert batch is not None
    found = backend.run(model, batch)
    first = found[0] if isinstance(found, (list, tuple)) else next(iter(found.values()))
    np.save(file, backend.to_array(first).astype("float64"))


def _call(python: str, *words: str, allowed: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run([python, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode not in allowed:
        raise SystemExit(f"{' '.join(words)}\n{done.stderr[-3000:]}")
    return done.stdout


def _unifreeze(python: str, *words: str) -> str:
    return _call(python, "-m", "unifreeze", *words)


def run(case: Case, pythons: tuple[str, str], folder: Path) -> dict[str, Any]:
    """Pair one network, compare the three plans, and carry a weight file over."""
    start = time.perf_counter()
    targets = case.target("torch"), case.target("paddle")
    one, other, pairing = (str(folder / f"{name}.json") for name in ("one", "other", "pairing"))
    batch = ("--batch", BATCH)
    _unifreeze(pythons[0], "sketch", targets[0], "-o", one, *batch)
    _unifreeze(pythons[1], "sketch", targets[1], "-o", other, "--like", one, *batch)
    _unifreeze(pythons[0], "pair", one, other, "-o", pairing)
    row = _described(json.loads(Path(pairing).read_text()))
    row["kilobytes"] = [round(Path(file).stat().st_size / 1000) for file in (one, other)]
    row["plans"] = [_plan(rule, targets, pythons, pairing, folder) for rule in PLANS.values()]
    row["step"] = _step(targets, pythons, folder)
    weights, ported = str(folder / "one.safetensors"), str(folder / "other.pdparams")
    _call(pythons[0], "-m", __spec__.name, "weights", targets[0], weights)
    _unifreeze(pythons[0], "port", weights, ported, "-p", pairing)
    arrays = []
    for python, target, file in zip(pythons, targets, (weights, ported), strict=True):
        saved = str(folder / "outputs.npy")
        _call(python, "-m", __spec__.name, "outputs", target, file, saved)
        arrays.append(np.load(saved))
    row["ported"] = float(np.abs(arrays[0] - arrays[1]).max() / np.abs(arrays[0]).max())
    row["seconds"] = round(time.perf_counter() - start)
    return row


def _described(pairing: dict[str, Any]) -> dict[str, Any]:
    parts = [row["other_part"] for row in pairing["pairs"] if row["other_part"]]
    fused = {
        part[0]: f"{part[0].rpartition('.')[0].rpartition('.')[2]} in {part[2]}" for part in parts
    }
    return {
        "paired": len(pairing["pairs"]),
        "tensors": len({(row["other_part"] or [row["other"]])[0] for row in pairing["pairs"]}),
        "left": len(pairing["left"]),
        "fused": ", ".join(dict.fromkeys(fused.values())) or "-",
        "outputs": pairing["certificate"]["outputs"],
        "gradients": pairing["certificate"]["gradients"],
    }


def _plan(
    rule: str, targets: tuple[str, str], pythons: tuple[str, str], pairing: str, folder: Path
) -> str:
    plan = folder / "plan.yaml"
    plan.write_text(f"unifreeze: 1\nrules:\n  - {rule}\n")
    sides = []
    for python, target in zip(pythons, targets, strict=True):
        words = ("-m", "unifreeze", "explain", str(plan), target, "--json", "-")
        said = _call(python, *words, allowed=(0, 2))
        rows = json.loads(said)["parameters"] if said else []
        sides.append({row["path"]: row["trainable"] for row in rows})
    if not all(sides):
        return "one side differs: it refuses" if any(sides) else "-"
    pairs = [
        (row["one"], (row["other_part"] or [row["other"]])[0])
        for row in json.loads(Path(pairing).read_text())["pairs"]
    ]
    differ = [one for one, other in pairs if sides[0][one] != sides[1][other]]
    frozen = sum(not sides[0][one] for one, _ in pairs)
    return f"{len(differ)} differ: {differ[0]}" if differ else f"{frozen} frozen"


def _step(targets: tuple[str, str], pythons: tuple[str, str], folder: Path) -> str:
    """Take one training step on each side, on the values of the certificate, and compare."""
    plan, known = str(folder / "plan.yaml"), ("-p", str(folder / "pairing.json"))
    sides = [str(folder / f"side{n}.json") for n in (0, 1)]
    sketch = ("--sketch", str(folder / "one.json"), "--batch", BATCH)
    for python, target, side in zip(pythons, targets, sides, strict=True):
        _unifreeze(python, "step", plan, target, "-o", side, *sketch, *known)
    words = ("-m", "unifreeze", "step", plan, *sides, *known, "--json", "-")
    found = json.loads(_call(pythons[0], *words, allowed=(0, 1)))
    return "the same" if found["holds"] else "differs"


def page(rows: dict[str, dict[str, Any]]) -> str:
    """Write the page."""
    lines = [
        f"| {name} | {row['paired']} with {row['tensors']} | {row['fused']} | {row['outputs']:.0e} "
        f"| {row['gradients']:.0e} | {' | '.join(row['plans'])} | {row['step']} "
        f"| {row['ported']:.0e} | {' and '.join(map(str, row['kilobytes']))} kB "
        f"| {row['seconds']} s |"
        for name, row in rows.items()
    ]
    return "\n".join(
        [
            "# transformers and PaddleFormers",
            "",
            "PaddleFormers cannot share a process with PyTorch's transformers, and needs other",
            "releases; so each side was sketched in an environment of its own, and the sketches",
            "paired. PaddleFormers fuses query, key and value, and gate and up; *fused* names the",
            "layers and in how many groups their parts lie, which no configuration was asked for.",
            "*Paired* counts transformers' tensors with PaddleFormers'. *Step* compares a training",
            "step of SGD and of AdamW with the norms frozen. *Ported* is the largest",
            "relative difference of the outputs, in single precision, once a safetensors file of",
            "transformers was turned into a `.pdparams` file and both libraries had loaded theirs.",
            "PaddleFormers computes parts of a network in single precision whatever its weights",
            "are in, which is what the certificate shows. A dash: both refuse the plan (no head).",
            "",
            f"| network | paired | fused | outputs | gradients | {' | '.join(PLANS)} | step "
            "| ported | sketches | time |",
            "|---|---|---|---|---|---|---|---|---|---|---|---|",
            *lines,
            "",
            "Written by `ci/formers.sh`.",
            "",
        ]
    )


def main() -> int:
    """Run from the command line."""
    if sys.argv[1:2] == ["weights"]:
        save_weights(*sys.argv[2:])
        return 0
    if sys.argv[1:2] == ["outputs"]:
        save_outputs(*sys.argv[2:])
        return 0
    parser = argparse.ArgumentParser(description="pair transformers with PaddleFormers")
    parser.add_argument("python", help="interpreter of the environment with PaddleFormers")
    parser.add_argument("names", nargs="*", help="only these")
    given = parser.parse_args()
    rows: dict[str, Any] = json.loads(DATA.read_text()) if DATA.exists() else {}
    for name in given.names or CASES:
        with tempfile.TemporaryDirectory(prefix="unifreeze-") as folder:
            rows[name] = run(CASES[name], (sys.executable, given.python), Path(folder))
        print(name, rows[name], flush=True)
        rows = {name: rows[name] for name in CASES if name in rows}
        DATA.write_text(json.dumps(rows, indent=1) + "\n")
        PAGE.write_text(page(rows))
    wrong = [name for name, row in rows.items() if row["left"] or "differ" in str(row["plans"])]
    wrong += [n for n, row in rows.items() if row["ported"] > 1e-4 or row["step"] != "the same"]
    print(f"{len(rows)} pairs, {len(wrong)} not as they should be: {', '.join(wrong)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
