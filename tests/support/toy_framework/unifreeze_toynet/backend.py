"""The toynet backend: describes a `toynet.Module` and writes the answer back."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import toynet

from unifreeze.backend import (
    CONTAINER,
    Guard,
    ModuleBackend,
    ModuleExperiments,
    ModuleOptimizers,
    Payload,
    Reader,
    Tensor,
)

KINDS = {
    toynet.Linear: "linear",
    toynet.BatchNorm: "norm",
    toynet.Embedding: "embedding",
    toynet.ModuleList: CONTAINER,
    toynet.ModuleDict: CONTAINER,
    toynet.Sequential: CONTAINER,
}
ROLES = {"mean": "mean", "variance": "var"}


class ToynetReader(Reader):
    """Reads toynet's modules for the walk."""

    framework = "toynet"

    def dicts(self, module):
        """Return the module's own dictionaries of children, parameters and buffers."""
        return module.parts, module.weights, module.statistics

    def listed(self, module):
        """Return the weights of a module and all under it, as toynet lists them: without names."""
        return [("", weight) for weight in module.all_weights()]

    def kind(self, module):
        """Return the module's kind, "" if unknown."""
        return KINDS.get(type(module), "")

    def state(self, module, leaf, tensor):
        """Return the role of a statistic, and that training moves it."""
        return ROLES[leaf], True

    def tensor(self, module, leaf, tensor):
        """Describe a weight; those of linear layers are inputs by outputs here."""
        swapped = isinstance(module, toynet.Linear) and leaf == "weight"
        neutral = tensor.shape[::-1] if swapped else tensor.shape
        return Tensor(tensor.shape, neutral, str(tensor.data.dtype), "", False)

    def shape_of(self, tensor):
        """Return shape and dtype of a statistic."""
        return tensor.shape, str(tensor.data.dtype)


class Held:
    """Stands in for a module's `set_training`: what is asked for is noted, and not done."""

    def __init__(self, module):
        self.module, self.asked = module, module.training

    def __call__(self, mode):
        """Take note; what is below follows."""
        self.asked = mode
        for part in self.module.parts.values():
            part.set_training(mode)


class ToynetBackend(ModuleExperiments, ModuleOptimizers, ModuleBackend):
    """Freezing in toynet: `learns`, no stale gradient, held modules deaf to `set_training`."""

    name = "toynet"
    forward = "run"
    reader = ToynetReader()
    module_class = toynet.Module

    def is_tensor(self, value):
        """Return whether a value is a toynet tensor."""
        return isinstance(value, toynet.Tensor)

    def is_floating(self, tensor):
        """Return whether a tensor holds floating-point values."""
        return tensor.data.dtype.kind == "f"

    def get_flag(self, tensor):
        """Return whether a weight learns."""
        return tensor.learns

    def set_flag(self, tensor, trainable):
        """Let a weight learn, or not."""
        tensor.learns = trainable

    def get_gradient(self, tensor):
        """Return a weight's gradient."""
        return tensor.gradient if tensor.gradient is None else toynet.Tensor(tensor.gradient)

    def set_gradient(self, tensor, gradient):
        """Set a weight's gradient; None drops it."""
        tensor.gradient = gradient if gradient is None else gradient.data

    def payload(self, tensor):
        """Return a tensor's bits."""
        flat = np.ascontiguousarray(tensor.data).reshape(-1).view(np.uint8)
        return Payload(str(tensor.data.dtype), tensor.shape, flat)

    def to_array(self, tensor):
        """Copy a tensor's values out."""
        return tensor.data.copy()

    def from_array(self, array, like):
        """Make a tensor; floating values take the dtype of another."""
        floating = np.asarray(array).dtype.kind == "f"
        return toynet.Tensor(np.array(array, like.data.dtype if floating else None))

    def clone(self, tensor):
        """Copy a tensor, outside the gradient."""
        return toynet.Tensor(tensor.data.copy())

    def copy_into(self, tensor, source):
        """Write values into a tensor in place."""
        tensor.data[...] = source.data

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
            module.set_training, module.training = Held(module), False

    def hook(self, module, before, after):
        """Call back around a module's run."""
        module.before.append(before)
        module.after.append(after)

        def remove():
            module.before.remove(before)
            module.after.remove(after)

        return remove

    @contextmanager
    def inference(self, walk):
        """Run without gradient, in inference mode."""
        before = self.modes(walk)
        with toynet.no_gradient():
            self.set_modes(walk, [False] * len(before))
            try:
                yield
            finally:
                self.set_modes(walk, before)

    @contextmanager
    def random_state(self):
        """Put the random generator back after."""
        state = toynet.generator().bit_generator.state
        try:
            yield
        finally:
            toynet.generator().bit_generator.state = state

    def train_mode(self, model):
        """Do what a training loop does."""
        model.set_training(True)

    def backward(self, outputs, weights):
        """Backpropagate the weighted sum of outputs."""
        loss = toynet.Tensor(np.float32(0))
        for output, weight in zip(outputs, weights, strict=True):
            loss = loss + (output * weight).sum()
        if loss.learns:
            loss.backward()
        return loss.learns

    def plain_optimizer(self, model, spec):
        """Build an optimizer over all of a model's weights; return its step and its clear."""
        settings = {"rate": spec.lr, "decay": spec.weight_decay}
        if spec.name == "adamw":
            optimizer = toynet.AdamW(model.all_weights(), **settings)
        else:
            optimizer = toynet.SGD(model.all_weights(), momentum=spec.momentum, **settings)
        return lambda _gradients: optimizer.step(), optimizer.clear

    def on_load(self, walk, loaded):
        """Call back after a state has been loaded."""
        hooks = walk.root.on_load
        hooks.append(loaded)
        return lambda: hooks.remove(loaded)

    def param_groups(self, model, groups, *, lr):
        """Build groups; rates are absolute."""
        live = self.objects(model)
        return [
            {
                "weights": [live[path] for path in group.paths],
                **({} if lr is None else {"rate": lr * group.lr_scale}),
                **({} if group.weight_decay is None else {"decay": group.weight_decay}),
            }
            for group in groups
        ]

    def optimizer(self, model, cls, groups, settings):
        """Build an optimizer over a plan's groups; its settings have names of their own."""
        names = {"lr": "rate", "weight_decay": "decay"}
        own = {names.get(name, name): value for name, value in settings.items()}
        return cls(self.param_groups(model, groups, lr=settings.get("lr")), **own)

    def container(self, models):
        """Put several models into a `ModuleDict`."""
        return toynet.ModuleDict(models)

    def seed(self, seed):
        """Seed the random generator."""
        toynet.seed(seed)
