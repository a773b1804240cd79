"""The slopenet backend: describes a `slopenet.Module` and writes the answer back."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import slopenet

from unifreeze.backend import (
    GradientPass,
    Guard,
    ModuleBackend,
    ModuleExperiments,
    ModuleOptimizers,
    Payload,
    Tapeless,
)
from unifreeze_slopenet.reader import SlopenetReader


class Held:
    """Stands in for a module's `set_training`: what is asked for is noted, and not done."""

    def __init__(self, module):
        self.module, self.asked = module, module.training

    def __call__(self, mode):
        """Take note; what is below follows."""
        self.asked = mode
        for part in self.module.held(slopenet.Module).values():
            part.set_training(mode)


class SlopenetBackend(Tapeless, ModuleExperiments, ModuleOptimizers, ModuleBackend):
    """Freezing in slopenet: `frozen`, and held modules deaf to `set_training`."""

    name = "slopenet"
    forward = "run"
    reader = SlopenetReader()
    module_class = slopenet.Module

    # Tensors

    def is_tensor(self, value):
        """Return whether a value is a slopenet array."""
        return isinstance(value, slopenet.Array)

    def is_floating(self, tensor):
        """Return whether an array holds floating-point values."""
        return tensor.data.dtype.kind == "f"

    def get_flag(self, tensor):
        """Return whether a weight is trainable."""
        return not tensor.frozen

    def set_flag(self, tensor, trainable):
        """Make a weight trainable or frozen."""
        tensor.frozen = not trainable

    def payload(self, tensor):
        """Return an array's bits."""
        flat = np.ascontiguousarray(tensor.data).reshape(-1).view(np.uint8)
        return Payload(str(tensor.data.dtype), tensor.shape, flat)

    def to_array(self, tensor):
        """Copy an array's values out."""
        return tensor.data.copy()

    def from_array(self, array, like):
        """Make an array; floating values take the dtype of another."""
        floating = np.asarray(array).dtype.kind == "f"
        return slopenet.Array(np.array(array, like.data.dtype if floating else None))

    def clone(self, tensor):
        """Copy an array without its slopes."""
        return slopenet.Array(tensor.data.copy())

    def copy_into(self, tensor, source):
        """Write values into an array in place."""
        tensor.data[...] = source.data

    # Modules

    def get_guards(self, walk):
        """Return the modules that are held now."""
        held = [n for n, m in enumerate(walk.modules) if "set_training" in m.__dict__]
        return dict.fromkeys(held, Guard(still=True))

    def set_guards(self, walk, guards):
        """Hold exactly these modules in inference mode."""
        before = self.get_guards(walk)
        for index in before.keys() - guards.keys():
            module = walk.module(index)
            module.training = module.__dict__.pop("set_training").asked
        for index in guards.keys() - before.keys():
            module = walk.module(index)
            module.__dict__["set_training"] = Held(module)
            module.training = False

    def hook(self, module, before, after):
        """Call back around a module's run."""
        module.before.append(before)
        module.after.append(after)

        def remove():
            module.before.remove(before)
            module.after.remove(after)

        return remove

    def on_load(self, walk, loaded):
        """Call back after a state has been loaded."""
        hooks = walk.root.on_load
        hooks.append(loaded)
        return lambda: hooks.remove(loaded)

    @contextmanager
    def inference(self, walk):
        """Run in inference mode; without a transformation there is no gradient."""
        before = self.modes(walk)
        self.set_modes(walk, [False] * len(before))
        try:
            yield
        finally:
            self.set_modes(walk, before)

    @contextmanager
    def random_state(self):
        """Put the random generator back after."""
        state = slopenet.generator().bit_generator.state
        try:
            yield
        finally:
            slopenet.generator().bit_generator.state = state

    def container(self, models):
        """Put several models into a `ModuleDict`."""
        return slopenet.ModuleDict(models)

    # Optimizers

    def param_groups(self, model, groups, *, lr):
        """Build groups of weights with their paths; rates are absolute."""
        live = self.objects(model)
        return [
            {
                "weights": [(path, live[path]) for path in group.paths],
                **({} if lr is None else {"rate": lr * group.lr_scale}),
                **({} if group.weight_decay is None else {"decay": group.weight_decay}),
            }
            for group in groups
        ]

    def optimizer(self, model, cls, groups, settings):
        """Build an optimizer over a plan's groups; its settings have names of their own."""
        names = {"lr": "rate", "weight_decay": "decay"}
        named = {names.get(name, name): value for name, value in settings.items()}
        return cls(self.param_groups(model, groups, lr=settings.get("lr")), **named)

    # Experiments

    def forward_and_backward(self, walk, forward, weigh):
        """Transform the model's run into a function of the weights that train."""
        weights = dict(zip(walk.first_paths(), walk.tensors, strict=True))
        trained = {path: weight for path, weight in weights.items() if not weight.frozen}
        outputs, pull = slopenet.pullback(forward, trained)
        weightings = weigh(outputs)
        reached = any(outputs[name].slopes is not None for name in weightings)
        gradients = pull(weightings) if reached else {}
        arrays = {path: slopenet.Array(gradient) for path, gradient in gradients.items()}
        return GradientPass(outputs, arrays, reached)

    def plain_optimizer(self, model, spec):
        """Build an optimizer over all of a model's weights; return its step and its clear."""
        walk = self.walk(model)
        weights = list(zip(walk.first_paths(), walk.tensors, strict=True))
        settings = {"rate": spec.lr, "decay": spec.weight_decay}
        if spec.name == "adamw":
            optimizer = slopenet.AdamW(weights, **settings)
        else:
            optimizer = slopenet.SGD(weights, momentum=spec.momentum, **settings)

        def step(gradients):
            optimizer.update({path: array.data for path, array in gradients.items()})

        return step, lambda: None

    def train_mode(self, model):
        """Do what a training loop does."""
        model.set_training(True)

    def seed(self, seed):
        """Seed the random generator."""
        slopenet.seed(seed)
