"""The PaddlePaddle backend: describes a `paddle.nn.Layer` and writes the answer back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from operator import attrgetter, methodcaller, not_
from typing import Any

import numpy as np
import paddle
from paddle import nn

from unifreeze.backend import (
    Array,
    Capabilities,
    Control,
    Finding,
    ForwardWatch,
    Guard,
    ModuleBackend,
    OptimizerSpec,
    ParamGroup,
    Resolution,
    Undo,
    Walk,
    build_optimizer,
    optimizer_defaults,
    overlapping,
    read_settings,
)
from unifreeze.errors import DescriptionError, TargetError
from unifreeze_paddle import _checks as checks
from unifreeze_paddle import _forward_watches as watches
from unifreeze_paddle import _guards as guards
from unifreeze_paddle import _half_frozen_layers as lending
from unifreeze_paddle import _library_name_tables as shipped
from unifreeze_paddle import _load_watches as loads
from unifreeze_paddle import _optimizer_moments as moments
from unifreeze_paddle import _optimizer_states as saved_states
from unifreeze_paddle import _optimizers as optimizers
from unifreeze_paddle import _phase_rates as steering
from unifreeze_paddle import _settings as settings
from unifreeze_paddle import _tensor_values as bits
from unifreeze_paddle._layers import PaddleReader, is_floating, largest_norms

STATIC_PROGRAMS = (
    paddle.static.Program,
    paddle.static.CompiledProgram,
    paddle.base.framework.Program,
    paddle.base.libpaddle.pir.Program,
)
"""What a static graph is described by, in every form."""

# Past the parameters' own `__setattr__`, which is written in Python.
_set_stop_gradient = paddle.Tensor.stop_gradient.__set__


class PaddleBackend(ModuleBackend):
    """Freezing in Paddle: `stop_gradient`, no stale gradient, statistics held, kernels helped."""

    name = "paddle"
    skips_frozen = True
    module_class = nn.Layer

    def __init__(self) -> None:
        super().__init__()
        self.reader = PaddleReader()

    @property
    def capabilities(self) -> Capabilities:
        """Facts about the framework."""
        gpu = paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
        return Capabilities(("cpu", "gpu") if gpu else ("cpu",), group_rates="scale")

    def check_model(self, model: Any) -> None:
        """Refuse what is not one of Paddle's layers; static programs have none.

        Raises:
            DescriptionError: It is a static program.
            TargetError: It is something else.
        """
        if isinstance(model, STATIC_PROGRAMS):
            raise DescriptionError(
                "a static program has no layers to freeze",
                context="what trains in it was fixed when its optimizer was added",
                hint="freeze the layer that it is built from, in dynamic mode",
            )
        super().check_model(model)

    def is_tensor(self, value: Any) -> bool:
        """Tell whether a value is a Paddle tensor."""
        return isinstance(value, paddle.Tensor)

    def is_floating(self, tensor: Any) -> bool:
        """Tell whether a tensor holds floating-point values."""
        return is_floating(tensor)

    def get_flag(self, tensor: Any) -> bool:
        """Tell whether a parameter is trainable."""
        return not tensor.stop_gradient

    def get_flags(self, tensors: Sequence[Any]) -> list[bool]:
        """Tell of many parameters whether they are trainable."""
        return list(map(not_, map(attrgetter("stop_gradient"), tensors)))

    def set_flag(self, tensor: Any, trainable: bool) -> None:
        """Make a parameter trainable or frozen.

        Only `stop_gradient` on the tensor works in every release; `requires_grad` was a plain
        attribute before 3.2, and flags set on a layer do nothing.
        """
        _set_stop_gradient(tensor, not trainable)

    get_gradient = staticmethod(attrgetter("grad"))  # type: ignore[assignment]
    payload = staticmethod(bits.payload)

    def set_gradient(self, tensor: Any, gradient: Any) -> None:
        """Set a parameter's gradient; None drops it (clearing would leave zeros)."""
        if gradient is None:
            tensor.clear_gradient(False)
        else:
            bits.set_gradient(tensor, gradient)

    def kept_gradient(self, tensor: Any) -> Any:
        """Return a copy of a parameter's gradient; what `grad` gives dies when it is dropped."""
        return None if tensor.grad is None else bits.copy_gradient(tensor)

    def has_values(self, tensor: Any) -> bool:
        """Tell whether a tensor has been initialised."""
        return bits.has_values(tensor)

    def has_no_values(self, walk: Walk) -> bool:
        """Tell whether all parameters still wait for their values.

        Of a model that had none when last asked, a hundred are asked again: it gets them all.
        """
        few = walk.tensors[:: len(walk.tensors) // 100 + 1]
        asked = few if walk.memo.get("lazy") else walk.tensors
        walk.memo["lazy"] = not any(map(methodcaller("_is_initialized"), asked))
        return bool(walk.memo["lazy"])

    def to_array(self, tensor: Any) -> Array:
        """Copy a tensor's values out."""
        return bits.to_array(tensor)

    def norm(self, tensor: Any) -> float:
        """Return the norm of a tensor's values, where it is: only a number leaves the device."""
        if tensor.place.is_cpu_place() or tensor.is_selected_rows():
            return super().norm(tensor)
        return float(paddle.linalg.norm(tensor.detach().astype("float64").reshape([-1])))

    def from_array(self, array: Array, like: Any) -> Any:
        """Make a tensor on the device of another; floating values take its dtype."""
        return bits.from_array(array, like)

    def clone(self, tensor: Any) -> Any:
        """Copy a tensor, bits and all, outside the gradient."""
        return tensor.detach().clone()

    def copy_into(self, tensor: Any, source: Any) -> None:
        """Write a clone's bits back into a tensor in place."""
        bits.copy_into(tensor, source)

    def find_shared(self, walk: Walk) -> None:
        """Find parameters that are different objects over the same memory."""
        spans = []
        for number, tensor in enumerate(walk.tensors):
            if tensor._is_initialized():
                size = walk.tree.tensors[number].size * tensor.element_size()
                spans.append((number, tensor.data_ptr(), size))
        walk.tree.shared = overlapping(spans)
        walk.memo["lazy"] = not spans

    def wanted_guards(self, walk: Walk, resolution: Resolution) -> dict[int, Guard]:
        """Hold what keeps state, quieten what the plan says, help kernels that need it."""
        still = set(resolution.held)
        still |= {n for n in resolution.quiet if not _plain_recurrent(walk.module(n))}
        flags = resolution.trainable.tolist()
        helped = set(self._kernels_to_help(walk))
        wanted = {}
        for index in sorted(still | helped):
            lend, attach = lending.needs(walk.module(index), walk.tree.numbers, flags)
            if lend or attach or index in still:
                wanted[index] = Guard(index in still, lend, attach)
        return wanted

    def _kernels_to_help(self, walk: Walk) -> list[int]:
        """Return the layers that may need help, whatever the plan says."""
        if "helped" not in walk.memo:
            sorts = [numbers for cls, numbers in walk.by_class.items() if lending.may_need(cls)]
            walk.memo["helped"] = sorted(chain.from_iterable(sorts))
        found: list[int] = walk.memo["helped"]
        return found

    def flag_guards(self, walk: Walk, *, trainable: bool) -> Undo | None:
        """Lend what kernels need while everything is frozen, so that gradient passes."""
        checks.refuse_traced(walk, "change its flags for a while")
        if trainable:
            return None
        if "lent" not in walk.memo:
            numbers, frozen = walk.tree.numbers, [False] * len(walk.tensors)
            layers = {n: walk.module(n) for n in self._kernels_to_help(walk)}
            found = {n: lending.needs(layer, numbers, frozen)[0] for n, layer in layers.items()}
            walk.memo["lent"] = {n: names for n, names in found.items() if names}
        before = self.get_guards(walk)
        wanted = dict(before)
        for index, names in walk.memo["lent"].items():
            wanted[index] = before.get(index, Guard())._replace(lend=names)
        self.set_guards(walk, wanted)
        return lambda: self.set_guards(walk, before)

    def help_backward(self, walk: Walk) -> None:
        """Help the layers that a backward pass would fail or crash in; norms stay as they are."""
        flags, before = self.flags_now(walk).tolist(), self.get_guards(walk)
        wanted = dict(before)
        for index in self._kernels_to_help(walk):
            layer = walk.module(index)
            lend, attach = lending.needs(layer, walk.tree.numbers, flags)
            lend = lend if isinstance(layer, lending.WHOLE) else ()
            if lend or attach:
                guard = before.get(index, Guard())
                names = tuple(dict.fromkeys((*guard.lend, *lend)))
                wanted[index] = guard._replace(lend=names, attach=guard.attach or attach)
        if wanted != before:
            checks.refuse_traced(walk, "run it backward on the flags that it has")
            self.set_guards(walk, wanted)

    def freeze_briefly(self, model: Any, resolution: Resolution) -> Undo:
        """Freeze for a while what a resolution freezes, and let to_static look again."""
        checks.refuse_traced(self.walk(model), "change its flags for a while")
        undo = super().freeze_briefly(model, resolution)
        guards.forget_traces()

        def restore() -> None:
            undo()
            guards.forget_traces()

        return restore

    def get_guards(self, walk: Walk) -> dict[int, Guard]:
        """Return the guards that are on a model's layers now."""
        found = {n: lending.guard_of(walk.module(n)) for n in walk.marked()}
        return {n: guard for n, guard in found.items() if guard}

    def set_guards(self, walk: Walk, guards_wanted: Mapping[int, Guard]) -> None:
        """Put exactly these guards on a model, and take off all others."""
        before = self.get_guards(walk)
        for index, guard in before.items():
            if guards_wanted.get(index) != guard:
                guards.take_off(walk.module(index))
        for index, guard in guards_wanted.items():
            if before.get(index) != guard:
                guards.put_on(walk.module(index), guard)

    def check_walk(self, walk: Walk, model: Any, resolution: Resolution) -> Iterator[Finding]:
        """Say what Paddle would get wrong."""
        changed = np.flatnonzero(resolution.trainable != self.flags_now(walk))
        guards_change = self.guards_for(walk, resolution) != self.get_guards(walk)
        return checks.findings(walk, model, resolution, changed, guards_change=guards_change)

    def hook(
        self, module: Any, before: Callable[[], None], after: Callable[[Any], None]
    ) -> Callable[[], None]:
        """Call back around a layer's forward."""

        def first(_layer: Any, _inputs: Any) -> None:
            before()

        def last(_layer: Any, _inputs: Any, outputs: Any) -> None:
            after(outputs)

        handles = [module.register_forward_pre_hook(first), module.register_forward_post_hook(last)]

        def remove() -> None:
            for handle in handles:
                handle.remove()

        return remove

    def on_forward(self, module: Any, watch: ForwardWatch) -> Undo:
        """Call back around a layer's forward passes; return the function that stops it."""
        return watches.on_forward(module, watch)

    def runs(self, module: Any) -> bool:
        """Return True if a layer computes something; a plain list of layers does not."""
        return type(module).forward is not nn.Layer.forward or "forward" in vars(module)

    def is_compiled(self, walk: Walk) -> bool:
        """Tell whether to_static runs a part of a model."""
        return checks.has_static_parts(walk)

    def trains(self, module: Any) -> bool:
        """Return True if a forward pass now is one of training: in training mode, with gradient."""
        return bool(module.training) and paddle.is_grad_enabled()

    @contextmanager
    def inference(self, walk: Walk) -> Iterator[None]:
        """Run without gradient, in inference mode; modes and random state are put back after."""
        before, norms = self.modes(walk), largest_norms(walk.modules)
        with self.random_state(), paddle.no_grad():
            for layer in walk.modules:
                layer.training = False
            for table, _ in norms:
                table._max_norm = None  # with it, looking up rewrites the table, in any mode
            try:
                yield
            finally:
                for table, largest in norms:
                    table._max_norm = largest
                self.set_modes(walk, before)

    @contextmanager
    def random_state(self) -> Iterator[None]:
        """Put the random generators back after."""
        state = paddle.get_rng_state()
        try:
            yield
        finally:
            paddle.set_rng_state(state)

    @contextmanager
    def double(self, walk: Walk) -> Iterator[None]:
        """Compute in double precision meanwhile; the tensors' own memory comes back after."""
        before = paddle.get_default_dtype()
        paddle.set_default_dtype("float64")
        try:
            with bits.in_double(walk.root, [*walk.tensors, *(t for _, t in walk.states())]):
                yield
        finally:
            paddle.set_default_dtype(before)

    def turn_random_off(self, walk: Walk) -> None:
        """Use inference mode, but in recurrent networks, which then pass no gradient."""
        recurrent = [isinstance(layer, nn.layer.rnn.RNNBase) for layer in walk.modules]
        guarded = dict(self.get_guards(walk))
        for number in np.flatnonzero(recurrent).tolist():
            guarded[number] = guarded.get(number, Guard())._replace(still=True)
        self.set_guards(walk, guarded)
        self.set_modes(walk, recurrent)

    def train_mode(self, model: Any) -> None:
        """Call `model.train()`, as a training loop does."""
        model.train()

    def backward(self, outputs: Sequence[Any], weights: Sequence[Array]) -> bool:
        """Backpropagate the weighted sum of outputs."""
        terms = [
            (output * bits.from_array(weight, output)).sum().astype("float32")
            for output, weight in zip(outputs, weights, strict=True)
            if not output.stop_gradient
        ]
        if terms:
            paddle.add_n(terms).backward()
        return bool(terms)

    def plain_optimizer(
        self, model: Any, spec: OptimizerSpec
    ) -> tuple[Callable[[], None], Callable[[], None]]:
        """Build an optimizer over all of a model's parameters; return its step and its clear."""
        settings = {
            "learning_rate": spec.lr,
            "parameters": model.parameters(),
            "weight_decay": spec.weight_decay,
        }
        if spec.name == "adamw":
            optimizer = paddle.optimizer.AdamW(**settings)
            return lambda: optimizers.step_dense(optimizer), optimizer.clear_grad
        optimizer = paddle.optimizer.Momentum(momentum=spec.momentum, **settings)
        return optimizer.step, optimizer.clear_grad

    def on_load(self, walk: Walk, loaded: Callable[[], None]) -> Undo:
        """Call back after `set_state_dict`."""
        return loads.on_load(walk.root, loaded)

    def write(
        self, model: Any, resolution: Resolution, found: Mapping[int, Guard] | None = None
    ) -> Undo:
        """Write the decisions, and forget what optimizers wrote onto what no plan covers."""
        walk = self.walk(model)
        if resolution.covered is not None:
            checks.refuse_traced(walk, "remove the plan")
        undo = super().write(model, resolution, found)
        guards.forget_traces()
        if resolution.covered is not None:
            owned = zip(walk.tree.owners, walk.tree.tensor_of, strict=True)
            kept = {number for owner, number in owned if resolution.covered[owner]}
            optimizers.forget(t for number, t in enumerate(walk.tensors) if number not in kept)

        def restore() -> None:
            undo()
            guards.forget_traces()

        return restore

    def param_groups(
        self, model: Any, groups: Sequence[ParamGroup], *, lr: float | None
    ) -> list[dict[str, Any]]:
        """Build param groups; a group's rate is a scale on the optimizer's, so `lr` is unused."""
        return [row for _, row in optimizers.param_groups(self.objects(model), groups)]

    def optimizer(
        self, model: Any, cls: type, groups: Sequence[ParamGroup], settings: Mapping[str, Any]
    ) -> Any:
        """Build a Paddle optimizer over a plan's groups."""
        rows = optimizers.param_groups(self.objects(model), groups)
        build = partial(optimizers.build, cls, rows, settings)
        return build_optimizer(cls, settings, build)

    def optimizer_parameters(self, optimizer: Any) -> list[Any]:
        """Return the live tensors of an optimizer's list or groups."""
        if not isinstance(optimizer, paddle.optimizer.Optimizer):
            return super().optimizer_parameters(optimizer)
        return optimizers.parameters_of(optimizer)

    def without_rate(self, model: Any, optimizer: Any) -> dict[str, str]:
        """Return what has a learning rate of 0; an optimizer's groups write it into parameters."""
        return {
            path: "ParamAttr(learning_rate=0), or a group of that rate"
            for path, tensor in self.objects(model).items()
            if getattr(tensor, "optimize_attr", {}).get("learning_rate") == 0
        }

    def moves_statistics(self, module: Any) -> bool:
        """Tell whether a batch norm would move its statistics: not if it uses the global ones."""
        return bool(module.training) and not getattr(module, "_use_global_stats", False)

    def settings(self, module: Any) -> dict[str, Any]:
        """Return one layer's own settings in neutral terms."""
        return read_settings(module, self.reader.kind(module), settings.LAYERS)

    def shipped_map(self, model: Any, others: Iterable[str]) -> dict[str, str]:
        """Return which of the other port's tensors is which, as the model's own library has it."""
        return shipped.shipped_map(model, others)

    def base_rate(self, optimizer: Any) -> float | None:
        """Return the learning rate an optimizer was built with; None if it has none."""
        return steering.base_rate(optimizer)

    def rates(self, optimizer: Any, tensors: Sequence[Any]) -> list[float]:
        """Return the learning rate that an optimizer has for each of some tensors now."""
        return steering.rates(optimizer, tensors)

    def on_step(self, optimizer: Any, call: Callable[[Any], bool]) -> None:
        """Call a function with an optimizer after its steps, until it returns True."""
        steering.on_step(optimizer, call)

    def steer(self, optimizer: Any, control: Control) -> Undo:
        """Take learning rate and weight decay from a phase, at each of an optimizer's steps."""
        return steering.steer(optimizer, control)

    def unset_groups(
        self, model: Any, built: Sequence[Any], groups: Sequence[ParamGroup]
    ) -> list[ParamGroup]:
        """Return groups whose settings stand neither on parameters nor in some optimizers."""
        return optimizers.unset_groups(self.objects(model), built, groups)

    def clear_moments(self, optimizer: Any, tensors: Sequence[Any]) -> None:
        """Make an optimizer forget what it has gathered about some parameters."""
        moments.clear_moments(optimizer, tensors)

    def values_written(self, optimizer: Any, tensors: Sequence[Any]) -> None:
        """Let an optimizer's master weights, of mixed precision, take in what was written."""
        optimizers.write_masters(optimizer, tensors)

    def name_states(self, optimizer: Any, paths: Mapping[int, str]) -> None:
        """Let an optimizer's saved states carry parameters' names, and be matched by them."""
        saved_states.name_states(optimizer, paths)

    def processes(self) -> int:
        """Return how many processes train together."""
        return steering.processes()

    def optimizer_defaults(self) -> dict[str, dict[str, Any]]:
        """Return what the framework's optimizers do if nobody says otherwise, by their names."""
        return optimizer_defaults(
            settings.OPTIMIZERS, settings.OPTIMIZER_SETTINGS, settings.OPTIMIZER_RULES
        )

    def container(self, models: Mapping[str, Any]) -> Any:
        """Put several models into a `LayerDict`."""
        return nn.LayerDict(dict(models))

    def place(self, model: Any, device: str) -> Any:
        """Move a model to "cpu" or "gpu"."""
        if device not in self.capabilities.devices:
            raise TargetError(
                f"paddle sees no {device!r} device here",
                context=f"devices: {', '.join(self.capabilities.devices)}",
                hint="the README says which Paddle package has CUDA",
            )
        paddle.set_device(device)
        return model.to(device=device)

    def device_of(self, model: Any) -> str:
        """Return the kind of device a model is on."""
        return "gpu" if self.anchor(model).place.is_gpu_place() else "cpu"

    def seed(self, seed: int) -> None:
        """Seed Paddle's random generators."""
        paddle.seed(seed)


def _plain_recurrent(layer: Any) -> bool:
    """Tell whether a layer is a recurrent network without dropout: nothing to turn off."""
    return isinstance(layer, nn.layer.rnn.RNNBase) and not layer.dropout
