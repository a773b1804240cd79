"""One schedule file, ResNet-18 and a small ERNIE: the same trainable set at every step in both.

`python tests/test_timeline.py` writes the golden timeline anew; look at what changed.
"""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import unifreeze as uf  # noqa: E402
from tests.support.pairs.pair import target  # noqa: E402
from unifreeze._cli.find_model import load_model  # noqa: E402

GOLDEN = HERE / "golden" / "timeline.txt"
PLAN = uf.FreezePlan.from_yaml(
    """
unifreeze: 1
phases:
  - {name: head, rules: [{only: head}], lr: 1e-3}
  - {name: top, at: {step: 3}, add: [{train: "blocks[-1]"}], lr: 1e-4}
  - {name: full, when: {metric: loss, stalled_for: 2}, add: [{train: all}]}
  - {name: still, after: {steps: 2}, add: [{freeze: norm}, {freeze: "blocks[:1]"}]}
  - {name: head again, after: {steps: 2}, like: head, lr: 1e-3}
  - {name: top again, after: {steps: 2}, like: top}
"""
)
LOSSES = [1.0, 0.9, 0.8, 0.7, 0.6, 0.6, 0.6, 0.6]
"""What is measured before each step from the second on: it stalls after the sixth."""
STEPS = 16
SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "vocab_size": 99,
    "max_position_embeddings": 20,
}
MODELS = {
    "ResNet-18": {
        "torch": target("tests.support.pairs.vision", "torch_model", "resnet18"),
        "paddle": target("tests.support.pairs.vision", "paddle_model", "resnet18"),
    },
    "ERNIE": {
        "torch": target("examples.ernie.models", "torch_ernie", **SIZES),
        "paddle": target("examples.ernie.models", "paddle_ernie", **SIZES),
    },
}
OPTIMIZERS = {"torch": ("torch.optim", "AdamW"), "paddle": ("paddle.optimizer", "AdamW")}


def trained(network, framework):
    """Return the phase and the canonical names of what trains, at every step."""
    module, name = OPTIMIZERS[framework]
    model, _ = load_model(MODELS[network][framework])
    handle = PLAN.apply(model)
    __import__(module)
    handle.optimizer(getattr(sys.modules[module], name))
    steps = []
    for step in range(STEPS):
        loss = LOSSES[min(step - 1, len(LOSSES) - 1)]
        handle.step(step=step, metrics={"loss": loss} if step else None)
        steps.append((handle.phase.name, handle.resolution.trainable_names))
        flags = handle._backend.read(model)
        assert sum(flags.values()) == len(handle.resolution.trainable_names)
    handle.verify()
    return steps


def text(network, steps):
    lines = [f"# {network}"]
    for number, (phase, names) in enumerate(steps):
        units = dict.fromkeys(name.partition("/")[0] for name in names)
        lines.append(f"{number:2} {phase:12}{len(names):4}  {' '.join(units)}")
    return "\n".join(lines)


@pytest.mark.parametrize("network", MODELS)
def test_both_frameworks_train_the_golden_timeline(network):
    one, other = (trained(network, framework) for framework in OPTIMIZERS)
    assert one == other
    assert text(network, one) in GOLDEN.read_text(encoding="utf-8")
    assert len({phase for phase, _ in one}) == len(PLAN.phases)


if __name__ == "__main__":
    parts = [text(network, trained(network, "torch")) for network in MODELS]
    GOLDEN.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
