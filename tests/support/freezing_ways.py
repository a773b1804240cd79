"""The four ways people freeze, tried out in both frameworks: what docs/en/ways-to-freeze.md shows.

After a change that is meant, `python -m tests.support.freezing_ways`, and read the difference.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import unifreeze as uf  # noqa: E402

FRAMEWORKS = {"torch": "PyTorch", "paddle": "PaddlePaddle"}
PAGE = ROOT / "docs" / "en" / "ways-to-freeze.md"
WAYS = ("flag", "left out of the optimizer", "put back after each step", "no_grad", "a plan")
PRESSURES = ("weight decay", "momentum", "statistics", "a stale gradient")


class Trial:
    """One small network in training, whose blocks are frozen in some way on the way.

    It has two blocks with batch norms, and a head that goes on training.
    """

    def __init__(self, framework, way, *, momentum=0.0, decay=0.0):
        kit = import_module(f"tests.support.kits.{framework}_kit").kit
        self.framework, self.way = framework, way
        self.backend, self.batch = kit.backend, kit.plain.batch
        self.model = kit.plain.make()
        self.model.train()
        self.objects = dict(self.backend.objects(self.model))
        spec = self.backend.describe(self.model)
        self.frozen = [name for name in spec.tree.names if name.startswith("blocks")]
        self.statistics = [state.path for state in spec.states if state.role in ("mean", "var")]
        self.settings = momentum, decay
        self.optimizer = self.make_optimizer(spec.tree.names)

    def make_optimizer(self, names):
        momentum, decay = self.settings
        tensors = [self.objects[name] for name in names]
        if self.framework == "torch":
            import torch

            return torch.optim.SGD(tensors, lr=0.1, momentum=momentum, weight_decay=decay)
        import paddle

        return paddle.optimizer.Momentum(
            0.1, momentum=momentum, weight_decay=decay, parameters=tensors
        )

    def freeze(self):
        """Freeze the blocks in the way this trial is about."""
        if self.way == "flag":
            for name in self.frozen:
                if self.framework == "torch":
                    self.objects[name].requires_grad = False
                else:
                    self.objects[name].stop_gradient = True
        elif self.way == "left out of the optimizer":
            self.optimizer = self.make_optimizer(["head.weight", "head.bias"])
        elif self.way == "no_grad":
            for block in self.model.blocks:
                block.forward = self.without_gradient(block.forward)
        elif self.way == "a plan":
            self.handle = uf.FreezePlan().only("head").apply(self.model)

    def without_gradient(self, forward):
        library = import_module(self.framework)

        def run(x):
            with library.no_grad():
                return forward(x)

        return run

    def backward(self):
        self.model.train()
        self.backend.run(self.model, self.batch).square().mean().backward()

    def clear(self):
        """Clear gradients as the framework does unless told otherwise."""
        (self.optimizer.zero_grad if self.framework == "torch" else self.optimizer.clear_grad)()

    def update(self):
        before = {name: self.backend.tensor(self.model, name) for name in self.frozen}
        self.optimizer.step()
        if self.way == "put back after each step" and self.putting_back:
            for name, value in before.items():
                self.backend.assign(self.model, name, value)

    putting_back = False

    def step(self):
        """Run one step of the loop."""
        self.backward()
        self.update()
        self.clear()

    def prints(self, names):
        return {n: d.bits for n, d in self.backend.fingerprint(self.model, names).items()}

    def holds(self, pressure):
        """Tell whether what is frozen keeps its bits under a pressure."""
        names = self.statistics if pressure == "statistics" else self.frozen
        if pressure == "a stale gradient":
            self.backward()
        else:
            self.step()
        self.freeze()
        self.putting_back = True
        before = self.prints(names)
        for _ in range(2):
            self.step()
        return self.prints(names) == before


def settings(pressure):
    """Optimizer settings that bring a pressure about."""
    return {"momentum": 0.9 * (pressure == "momentum"), "decay": 0.1 * (pressure == "weight decay")}


def outcome(framework, way, pressure):
    """Tell whether a way of freezing holds under a pressure."""
    return Trial(framework, way, **settings(pressure)).holds(pressure)


LOOKS = {
    "flag": "nothing",
    "left out of the optimizer": "`optimizer=`",
    "put back after each step": "`step=`",
    "no_grad": "`batch=`",
    "a plan": "nothing",
}


def captured(framework, way, *, looking=True):
    """Capture a model frozen in some way, with the one more thing that shows it."""
    trial = Trial(framework, way)
    trial.freeze()
    trial.putting_back = True
    more = {
        "left out of the optimizer": {"optimizer": trial.optimizer},
        "put back after each step": {"step": trial.step},
        "no_grad": {"batch": trial.batch},
    }
    return uf.capture(trial.model, **(more.get(way, {}) if looking else {}))


def _table(framework):
    rows = [
        f"| {framework_name(framework)} | {' | '.join(PRESSURES)} |",
        f"|---|{'---|' * len(PRESSURES)}",
    ]
    for way in WAYS:
        cells = ("holds" if outcome(framework, way, p) else "**moves**" for p in PRESSURES)
        rows.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(rows)


def framework_name(framework):
    return FRAMEWORKS[framework]


def _captures():
    rows = ["| frozen by | look at | the plan | norm_stats | without it |", "|---|---|---|---|---|"]
    for way in WAYS:
        found, bare = captured("torch", way).plan, captured("torch", way, looking=False).plan
        rules, plain = ("; ".join(map(str, plan.rules)) for plan in (found, bare))
        rows.append(f"| {way} | {LOOKS[way]} | `{rules}` | `{found.norm_stats}` | `{plain}` |")
    return "\n".join(rows)


def page():
    """Return the page, with what was measured just now."""
    tables = "\n\n".join(_table(framework) for framework in FRAMEWORKS)
    return f"""# Four ways to freeze, and what each holds

People freeze part of a network in four ways: they set the flag (`requires_grad = False`,
`stop_gradient = True`), leave the parameters out of the optimizer, put the values back after each
step, or run the part under `no_grad`. They differ in what they hold. Each row below was tried on a
network of two blocks with batch norms, frozen after its first step, and a head that goes on
training under SGD; the loop calls `model.train()` before each step and clears gradients as the
framework does by default after it. *Holds* means: every bit as before, two steps later.

{tables}

- **Weight decay** and **momentum** pass over a parameter only if its gradient is gone. PyTorch's
  `zero_grad()` drops gradients; Paddle's `clear_grad()` leaves zeros.
- **Statistics** of batch norms are moved by the forward pass. No flag, optimizer or `no_grad` stops
  that; only inference mode does, and the next `model.train()` ends it.
- **A stale gradient**: here a backward pass had run before freezing, without a step. PyTorch's
  optimizers look at the gradient alone; Paddle's look at the flag, too.
- Left out of the optimizer and put back, parameters still get gradients, which cost time and memory
  and count when clipping. `no_grad` also cuts off whatever trains below.

## What `capture` makes of them

The flags are always read; the other ways show only with more to look at. This is
`uf.capture(model, …)` on that network:

{_captures()}

A learning rate of 0 freezes as well, under most optimizers: a parameter's own in Paddle
(`ParamAttr(learning_rate=0)`) is always read, and a group's with `optimizer=`.

`norm_stats: update` says what the source does: its frozen norms let their statistics move. Delete
the line to hold them.

This page is written by `python -m tests.support.freezing_ways` and checked by
`tests/test_ways_to_freeze.py`.
"""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
