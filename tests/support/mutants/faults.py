"""What backends get wrong, in either framework: each class overrides one small piece.

Most of them also fail to read back what they wrote, because the library's own would stop them
before anything is trained; what is left is what parity must see from outside.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

FROZEN, TRAINS = "blocks.0.second.weight", "blocks.1.second.weight"


def on(backend: type, name: str) -> type:
    """Make a wrong backend of a right one."""
    if name.startswith("_") or name not in globals():
        raise AttributeError(name)
    return type(name, (globals()[name], backend), {})


class Nothing:
    """No fault at all: the control."""


class _Unread:
    """Does not look whether what it wrote reads back."""

    def _read_back(self, walk, wanted):
        pass


class Deaf(_Unread):
    """Writes no flag."""

    def set_flag(self, tensor, trainable):
        pass


class DeafAndRefused:
    """Writes no flag, but reads back as the library does."""

    def set_flag(self, tensor, trainable):
        pass


class DeafAndLies:
    """Writes no flag, and says it did."""

    def __init__(self):
        super().__init__()
        self.said = {}

    def set_flag(self, tensor, trainable):
        self.said[id(tensor)] = trainable

    def get_flag(self, tensor):
        return self.said.get(id(tensor), super().get_flag(tensor))

    def get_flags(self, tensors):
        return [self.get_flag(tensor) for tensor in tensors]


class WrongSign(_Unread):
    """Freezes what should train, and the other way round."""

    def _write_flags(self, walk, wanted):
        super()._write_flags(walk, [not flag for flag in wanted])


class WrongSignBothWays:
    """Mistakes the meaning of the flag, in writing and in reading."""

    def set_flag(self, tensor, trainable):
        super().set_flag(tensor, not trainable)

    def get_flag(self, tensor):
        return not super().get_flag(tensor)

    def get_flags(self, tensors):
        return [self.get_flag(tensor) for tensor in tensors]


class ReadsAllTrainable:
    """Writes well, and reports that everything trains."""

    def read(self, model):
        return dict.fromkeys(super().read(model), True)


class FreezesOneTooMany(_Unread):
    """Freezes a parameter that nobody asked for."""

    def _write_flags(self, walk, wanted):
        super()._write_flags(walk, _changed(walk, wanted, {TRAINS: False}))


class FreezesOneTooManyAndLies(FreezesOneTooMany):
    """The same, reporting what was decided."""

    def read(self, model):
        return {path: flag or path == TRAINS for path, flag in super().read(model).items()}


class SwapsTwo(_Unread):
    """Gives two parameters each other's decision."""

    def _write_flags(self, walk, wanted):
        super()._write_flags(walk, _changed(walk, wanted, {TRAINS: False, FROZEN: True}))


def _changed(walk, wanted, flags):
    numbers = dict(zip(walk.tree.names, walk.tree.tensor_of, strict=True))
    changed = list(wanted)
    for path, flag in flags.items():
        changed[numbers[path]] = flag
    return changed


class KeepsStaleGradients:
    """Freezes, and leaves the gradients of earlier steps where they are."""

    def _drop_gradients(self, walk, wanted, written):
        pass


class LetsDecayThrough(DeafAndLies):
    """Zeroes the gradients of frozen parameters and hides them: weight decay still applies."""

    def get_gradient(self, tensor):
        return super().get_gradient(tensor) if self.get_flag(tensor) else None

    def backward(self, outputs, weights):
        done = super().backward(outputs, weights)
        for walk in self._walks.values():
            for tensor in walk.tensors:
                if not self.get_flag(tensor) and super().get_gradient(tensor) is not None:
                    self.set_gradient(tensor, _zeros(self, tensor))
        return done


class CutsActivations(DeafAndLies):
    """Detaches the outputs of frozen layers instead of freezing their parameters."""

    def run(self, model, batch):
        walk = self.walk(model)
        owners = zip(walk.tree.owners, walk.tree.tensor_of, strict=True)
        trains = {owner for owner, tensor in owners if self.get_flag(walk.tensors[tensor])}
        layers = set(walk.tree.owners) - trains - {0}
        hooks = [self.cut(walk.module(layer)) for layer in layers]
        try:
            return super().run(model, batch)
        finally:
            for hook in hooks:
                hook.remove()


class ZeroesWhatItFreezes:
    """Freezes at zero: nothing moves any more, but the values are lost."""

    def set_flag(self, tensor, trainable):
        super().set_flag(tensor, trainable)
        if not trainable:
            self.copy_into(tensor, _zeros(self, tensor))


def _zeros(backend, tensor):
    return backend.from_array(np.zeros_like(backend.to_array(tensor)), tensor)


class ThawsInTraining:
    """Freezes well, and trains everything again when the loop asks for training mode."""

    def train_mode(self, model):
        super().train_mode(model)
        for tensor in self.walk(model).tensors:
            self.set_flag(tensor, True)


class StatisticsDrift:
    """Freezes norms and lets their statistics run on."""

    def wanted_guards(self, walk, resolution):
        return super().wanted_guards(walk, replace(resolution, held=()))


class IgnoresNormStats:
    """Holds every norm's statistics, whatever the plan says about them."""

    def wanted_guards(self, walk, resolution):
        every = tuple(resolution.spec.statistics_owners())
        return super().wanted_guards(walk, replace(resolution, held=every))


class IgnoresDropout:
    """Leaves stochastic layers live where the plan turns them off."""

    def wanted_guards(self, walk, resolution):
        return super().wanted_guards(walk, replace(resolution, quiet=()))


class TrainsNothing:
    """Never takes the optimizer's step."""

    def plain_optimizer(self, model, spec):
        _, clear = super().plain_optimizer(model, spec)
        return lambda gradients: None, clear


class LeavesOneOut:
    """Builds its optimizer without one of the parameters."""

    def plain_optimizer(self, model, spec):
        step, clear = super().plain_optimizer(model, spec)
        left_out = self.objects(model)[TRAINS]

        def step_all_but_one(gradients):
            kept = self.clone(left_out)
            step(gradients)
            self.copy_into(left_out, kept)

        return step_all_but_one, clear


class DropsAnOutput:
    """Looks at the last output only."""

    def run(self, model, batch):
        return super().run(model, batch)[-1]


class LooksAway:
    """Takes no fingerprint of one frozen parameter."""

    def objects(self, model):
        return {path: tensor for path, tensor in super().objects(model).items() if path != FROZEN}


class _Rereads:
    """Reads modules wrongly; the reader of a framework is replaced by one over it."""

    def __init__(self):
        super().__init__()
        self.reader = self.Reader(self.reader)


class _OverReader:
    """A framework's reader, with one answer changed."""

    def __init__(self, reader):
        self.right = reader

    def __getattr__(self, name):
        return getattr(self.right, name)


class TakesAllAsTrainable:
    """Takes every parameter to be trainable as found."""

    def describe(self, model, batch=None):
        spec = super().describe(model, batch)
        return spec.with_found(np.ones(len(spec), np.bool_))


class ForgetsTheTiedName(_Rereads):
    """Lists a tied tensor under its first name only."""

    class Reader(_OverReader):
        def __init__(self, reader):
            super().__init__(reader)
            self.first = {}

        def dicts(self, module):
            children, own, buffers = self.right.dicts(module)
            for tensor in own.values():
                self.first.setdefault(id(tensor), (module, tensor))
            own = {leaf: t for leaf, t in own.items() if self.first[id(t)][0] is module}
            return children, own, buffers


class ForgetsTheRoot(_Rereads):
    """Lists what children own, and not what stands beside them."""

    class Reader(_OverReader):
        def dicts(self, module):
            children, own, buffers = self.right.dicts(module)
            return children, {} if children else own, buffers


class DropsABias(_Rereads):
    """Leaves the biases of some layers out of the description."""

    class Reader(_OverReader):
        def __init__(self, reader):
            super().__init__(reader)
            self.left_out = []

        def dicts(self, module):
            children, own, buffers = self.right.dicts(module)
            self.left_out.append(children.get("second"))
            if any(module is layer for layer in self.left_out):
                own = {"weight": own["weight"]}
            return children, own, buffers


class ReversesTheBlocks(_Rereads):
    """Lists the children of a list from the last to the first."""

    class Reader(_OverReader):
        def dicts(self, module):
            children, own, buffers = self.right.dicts(module)
            if type(module).__name__ in ("ModuleList", "LayerList"):
                children = dict(reversed(children.items()))
            return children, own, buffers


# What parity cannot see, because each side is wrong about its own model alone: for the contract.


class SwapsTwoLayers(_Rereads):
    """Lists two layers of one shape under each other's name."""

    class Reader(_OverReader):
        def dicts(self, module):
            children, own, buffers = self.right.dicts(module)
            if "second" in children:
                swapped = {"first": children["second"], "second": children["first"]}
                children = {**children, **swapped}
            return children, own, buffers


class DescribingFreezes:
    """Leaves its mark on a model by looking at it."""

    def describe(self, model, batch=None):
        spec = super().describe(model, batch)
        self.set_flag(self.walk(model).tensors[0], False)
        return spec


class NeverThaws(_Unread):
    """Freezes for good."""

    def set_flag(self, tensor, trainable):
        if not trainable:
            super().set_flag(tensor, trainable)


class RoundsFingerprints:
    """Takes fingerprints that do not tell the sign of a zero, nor zero from not a number."""

    def payload(self, tensor):
        plain = np.abs(np.nan_to_num(self.to_array(tensor)))
        return super().payload(self.from_array(plain, tensor))


class AssignsToACopy:
    """Assigns to something that is thrown away."""

    def assign(self, model, path, array):
        kept = self.clone(self.objects(model)[path])
        self.copy_into(kept, self.from_array(array, kept))


class LeavesItsSteps:
    """Probes, and forgets to put one parameter back."""

    def probe(self, model, resolution, config):
        result = super().probe(model, resolution, config)
        path = next(iter(self.read(model)))
        self.assign(model, path, self.tensor(model, path) + 1)
        return result


class DrawsAnew:
    """Probes with another loss every time."""

    def backward(self, outputs, weights):
        drawn = [np.random.default_rng().standard_normal(weight.shape) for weight in weights]
        return super().backward(outputs, drawn)


class LeavesItsMeasuring:
    """Measures, and forgets to put one flag back."""

    def measure(self, model, config):
        found = super().measure(model, config)
        self.set_flag(self.walk(model).tensors[0], True)
        return found


class MeasuresInTraining:
    """Measures in training mode, and leaves it on."""

    def measure(self, model, config):
        found = super().measure(model, config)
        self.run(model, replace(config.batches[0], kwargs={}))
        return found


class MeasuresWhatTrains:
    """Measures only what the flags let train."""

    def measure(self, model, config):
        found, flags = super().measure(model, config), self.read(model)
        kept = [{p: n for p, n in one.items() if flags[p]} for one in found.gradients]
        return replace(found, gradients=tuple(kept))


class PassesNothingBy:
    """Calls the forward pass itself in place of what should stand in for it."""

    def around_forward(self, module, stand_in):
        return super().around_forward(
            module, lambda forward, args, named: (stand_in(forward, args, named), forward(*args))[1]
        )


class HoldsByATable:
    """Keeps what it holds in a table beside the models, where copies are not."""

    def __init__(self):
        super().__init__()
        self.held = {}

    def get_guards(self, walk):
        return self.held.get(id(walk.root), {})

    def set_guards(self, walk, guards):
        self.held[id(walk.root)] = dict(guards)

    def train_mode(self, model):
        super().train_mode(model)
        walk = self.walk(model)
        for index in self.get_guards(walk):
            walk.module(index).training = False


class DropsAGroup:
    """Hands the optimizer all param groups but the last."""

    def param_groups(self, model, groups, *, lr):
        return super().param_groups(model, groups[:-1], lr=lr)


class MixesModels:
    """Takes several models under each other's names."""

    def group(self, models):
        return super().group(dict(zip(models, reversed(models.values()), strict=True)))


class NoticesNothing:
    """Calls nobody back when a model trains."""

    def watch_training(self, model, call):
        return lambda: None


class TakesItsOwnForTraining:
    """Takes passes that it runs itself for the user's."""

    @property
    def runs_itself(self):
        return False

    @runs_itself.setter
    def runs_itself(self, value):
        pass


class NeverStopsWatching:
    """Goes on calling back."""

    def watch_training(self, model, call):
        super().watch_training(model, call)
        return lambda: None
