"""The PyTorch backend: describes a `torch.nn.Module` and writes the answer back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from operator import attrgetter
from typing import Any

import torch
from torch import nn

from unifreeze.backend import (
    OWN_DECAY,
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
from unifreeze.errors import OptimizerError, TargetError, brief
from unifreeze_torch import _checks as checks
from unifreeze_torch import _forward_watches as watches
from unifreeze_torch import _guards as modes
from unifreeze_torch import _layers as layers
from unifreeze_torch import _load_watches as load_watches
from unifreeze_torch import _offloaded_values as offloaded
from unifreeze_torch import _optimizer_states as saved_states
from unifreeze_torch import _phase_rates as steering
from unifreeze_torch import _settings as settings
from unifreeze_torch import _tensor_values as bits
from unifreeze_torch._layers import TorchReader


class TorchBackend(ModuleBackend):
    """Freezing in PyTorch: `requires_grad`, no stale `.grad`, held modules pinned to inference."""

    name = "torch"
    module_class = nn.Module

    def __init__(self) -> None:
        super().__init__()
        self.reader = TorchReader()

    @property
    def capabilities(self) -> Capabilities:
        """Facts about the framework."""
        devices = ("cpu", "gpu") if torch.cuda.is_available() else ("cpu",)
        return Capabilities(devices, group_rates="absolute")

    def is_tensor(self, value: Any) -> bool:
        """Tell whether a value is a torch tensor."""
        return isinstance(value, torch.Tensor)

    def is_floating(self, tensor: Any) -> bool:
        """Tell whether a tensor holds floating-point values."""
        return bool(tensor.is_floating_point())

    # These are called for every tensor of large models, so they are without a frame.
    get_flag = staticmethod(attrgetter("requires_grad"))  # type: ignore[assignment]
    get_gradient = staticmethod(attrgetter("grad"))  # type: ignore[assignment]
    payload = staticmethod(bits.payload)
    has_values = staticmethod(bits.has_values)
    stored = staticmethod(offloaded.stored)

    def set_flag(self, tensor: Any, trainable: bool) -> None:
        """Make a parameter trainable or frozen."""
        if trainable and layers.made_in_inference_mode(tensor):
            with torch.inference_mode():  # elsewhere it cannot be given back the flag it had
                tensor.requires_grad = trainable
        else:
            tensor.requires_grad = trainable

    def set_gradient(self, tensor: Any, gradient: Any) -> None:
        """Set a parameter's gradient; None drops it."""
        tensor.grad = gradient

    def has_no_values(self, walk: Walk) -> bool:
        """Tell whether all parameters are on the meta device; none leaves it and stays itself."""
        if "meta" not in walk.memo:
            walk.memo["meta"] = all(map(attrgetter("is_meta"), walk.tensors))
        return bool(walk.memo["meta"])

    def sizes(self, walk: Walk) -> list[Any]:
        """Return each parameter's number of values: its shape would take five times as long."""
        try:
            return list(map(torch.Tensor.numel, walk.tensors))
        except ValueError:  # a lazy layer has yet to see its first batch
            return [-1 if layers.is_lazy(tensor) else tensor.numel() for tensor in walk.tensors]

    def to_array(self, tensor: Any) -> Array:
        """Copy a tensor's values out."""
        return bits.to_array(tensor)

    def norm(self, tensor: Any) -> float:
        """Return the norm of a tensor's values, where it is: only a number leaves the device."""
        if tensor.device.type in ("cpu", "meta") or tensor.layout is not torch.strided:
            return super().norm(tensor)
        return float(torch.linalg.vector_norm(tensor.detach(), dtype=torch.float64))

    def from_array(self, array: Array, like: Any) -> Any:
        """Make a tensor on the device of another; floating values take its dtype."""
        return bits.from_array(array, like)

    def clone(self, tensor: Any) -> Any:
        """Copy a tensor, bits and all, outside the gradient."""
        return tensor.detach().clone()

    def copy_into(self, tensor: Any, source: Any) -> None:
        """Write a clone's bits back into a tensor in place."""
        bits.copy_into(tensor, source)

    def walk(self, model: Any) -> Walk:
        """Walk a model; FSDP shows the parameters that keep their flags only while it shards."""
        self.check_model(model)
        root = self.root(model)
        for module in layers.sharded(root):
            module.reshard()
        return super().walk(root)

    def find_shared(self, walk: Walk) -> None:
        """Find parameters that are different objects over the same memory.

        Views are taken to fill the stretch between their first and last byte, so that interleaved
        ones are refused though they could be told apart.
        """
        spans = []
        for number, tensor in enumerate(walk.tensors):
            if layers.has_memory(tensor) and type(tensor) is nn.Parameter:
                spans.append((number, tensor.data_ptr(), layers.extent(tensor)))
        walk.tree.shared = overlapping(spans)

    def wanted_guards(self, walk: Walk, resolution: Resolution) -> dict[int, Guard]:
        """Hold what keeps state, and with `dropout: off` what draws random numbers.

        A recurrent layer without dropout has no training-time behaviour to turn off, and cuDNN
        cannot pass gradient through one in inference mode.
        """
        guards = {index: Guard(still=True) for index in resolution.held}
        for index in resolution.quiet:
            module = walk.module(index)
            if not (isinstance(module, nn.RNNBase) and not module.dropout):
                guards[index] = Guard(still=True)
        return guards

    def get_guards(self, walk: Walk) -> dict[int, Guard]:
        """Return the guards that are on a model's modules now."""
        pins = {n: modes.pin_of(walk.module(n)) for n in walk.marked()}
        return {n: Guard(still=True, copied=pin.copied) for n, pin in pins.items() if pin}

    def set_guards(self, walk: Walk, guards: Mapping[int, Guard]) -> None:
        """Put exactly these guards on a model, and take off all others."""
        before = self.get_guards(walk)
        for index, guard in before.items():
            if guards.get(index) != guard:
                modes.unpin(walk.module(index))
        for index, guard in guards.items():
            modes.pin(walk.module(index), copied=guard.copied)

    def check_walk(self, walk: Walk, model: Any, resolution: Resolution) -> Iterator[Finding]:
        """Say what PyTorch would get wrong."""
        return checks.findings(walk, model, resolution, self.flags_now(walk))

    def hook(
        self, module: Any, before: Callable[[], None], after: Callable[[Any], None]
    ) -> Callable[[], None]:
        """Call back around a module's forward."""
        if isinstance(module, torch.jit.ScriptModule):
            raise TargetError(
                "a scripted model shows nothing of its forward pass",
                hint="give the model as it was before torch.jit.script",
            )
        first = module.register_forward_pre_hook(lambda *_: before(), prepend=True)
        last = module.register_forward_hook(lambda _module, _inputs, result: after(result))

        def remove() -> None:
            first.remove()
            last.remove()

        return remove

    def on_forward(self, module: Any, watch: ForwardWatch) -> Undo:
        """Call back around a module's forward passes; return the function that stops it."""
        return watches.on_forward(module, watch)

    def runs(self, module: Any) -> bool:
        """Return True if a module computes something; a plain list of modules does not."""
        return type(module).forward is not nn.Module.forward or "forward" in vars(module)

    def is_compiled(self, walk: Walk) -> bool:
        """Tell whether `torch.compile` runs a part of a model."""
        wrapped = any(hasattr(wrapper, "_orig_mod") for _, wrapper in walk.wrappers)
        return wrapped or any(getattr(m, "_compiled_call_impl", None) for m in walk.modules)

    def trains(self, module: Any) -> bool:
        """Return True if a forward pass now is one of training: in training mode, with gradient."""
        return bool(module.training) and torch.is_grad_enabled()

    @contextmanager
    def inference(self, walk: Walk) -> Iterator[None]:
        """Run without gradient, in inference mode; modes and random state are put back after."""
        before, norms = self.modes(walk), layers.largest_norms(walk.modules)
        stance = getattr(torch.compiler, "set_stance", None)
        eager = stance("force_eager") if stance else nullcontext()
        with self.random_state(), torch.no_grad(), eager:
            for module in walk.modules:
                module.training = False
            for table, _ in norms:
                table.max_norm = None  # with it, looking up rewrites the table, in any mode
            try:
                yield
            finally:
                for table, largest in norms:
                    table.max_norm = largest
                self.set_modes(walk, before)

    @contextmanager
    def random_state(self) -> Iterator[None]:
        """Put the random generators back after."""
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield

    @contextmanager
    def double(self, walk: Walk) -> Iterator[None]:
        """Compute in double precision meanwhile; the tensors' own memory comes back after."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            with bits.in_double(walk.tensors, walk.slots):
                yield
        finally:
            torch.set_default_dtype(before)

    def train_mode(self, model: Any) -> None:
        """Call `model.train()`, as a training loop does."""
        model.train()

    def backward(self, outputs: Sequence[Any], weights: Sequence[Array]) -> bool:
        """Backpropagate the weighted sum of outputs."""
        terms = [
            (output * bits.from_array(weight, output)).sum()
            for output, weight in zip(outputs, weights, strict=True)
            if output.requires_grad
        ]
        if terms:
            torch.stack([term.float() for term in terms]).sum().backward()
        return bool(terms)

    def plain_optimizer(
        self, model: Any, spec: OptimizerSpec
    ) -> tuple[Callable[[], None], Callable[[], None]]:
        """Build an optimizer over all of a model's parameters; return its step and its clear."""
        parameters = list(model.parameters())
        optimizer: torch.optim.Optimizer
        if spec.name == "adamw":
            optimizer = torch.optim.AdamW(parameters, lr=spec.lr, weight_decay=spec.weight_decay)
        else:
            optimizer = torch.optim.SGD(
                parameters, lr=spec.lr, weight_decay=spec.weight_decay, momentum=spec.momentum
            )
        return optimizer.step, optimizer.zero_grad

    def on_load(self, walk: Walk, loaded: Callable[[], None]) -> Undo:
        """Call back after `load_state_dict`."""
        return load_watches.on_load(walk.root, loaded)

    def param_groups(
        self, model: Any, groups: Sequence[ParamGroup], *, lr: float | None
    ) -> list[dict[str, Any]]:
        """Build param groups; rates are absolute, so a group with a scale needs `lr`."""
        live = self.objects(model)
        made = []
        for group in groups:
            row: dict[str, Any] = {"params": [live[path] for path in group.paths]}
            row["name"] = group.name
            if lr is not None:
                row["lr"] = lr * group.lr_scale
            elif group.lr_scale != 1:
                raise OptimizerError(
                    f"group {group.name!r} scales the learning rate, and none was given",
                    hint="pass lr=…",
                )
            if group.weight_decay is not None:
                row |= {"weight_decay": group.weight_decay, OWN_DECAY: True}
            made.append(row)
        return made

    def optimizer(
        self, model: Any, cls: type, groups: Sequence[ParamGroup], settings: Mapping[str, Any]
    ) -> Any:
        """Build a torch optimizer over a plan's groups."""
        if not (isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)):
            raise OptimizerError(
                f"{brief(cls)} is not a torch optimizer class",
                hint="for example handle.optimizer(torch.optim.AdamW, lr=1e-3)",
            )
        if issubclass(cls, torch.optim.LBFGS):
            raise OptimizerError(
                "LBFGS keeps one direction over all parameters and moves frozen ones",
                hint="use a first-order optimizer",
            )

        def build() -> Any:
            rows = self.param_groups(model, groups, lr=settings.get("lr"))
            return cls(rows, **settings)

        return build_optimizer(cls, settings, build)

    def optimizer_parameters(self, optimizer: Any) -> list[Any]:
        """Return the live tensors of an optimizer's groups."""
        groups = getattr(optimizer, "param_groups", None)
        if not isinstance(groups, list):
            return super().optimizer_parameters(optimizer)
        return [tensor for group in groups for tensor in group["params"]]

    def without_rate(self, model: Any, optimizer: Any) -> dict[str, str]:
        """Return what is in a group with a rate of 0 that no scheduler has made of another."""
        groups = getattr(optimizer, "param_groups", [])
        groups = groups if isinstance(groups, list) else []
        still = [g for g in groups if float(g.get("lr", 1)) == float(g.get("initial_lr", 0)) == 0]
        tensors = {id(tensor) for group in still for tensor in group["params"]}
        named = self.objects(model).items()
        return {path: "a param group with lr=0" for path, tensor in named if id(tensor) in tensors}

    def settings(self, module: Any) -> dict[str, Any]:
        """Return one layer's own settings in neutral terms."""
        return read_settings(module, self.reader.kind(module), settings.LAYERS)

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
        """Return groups that no param group of some optimizers is named after."""
        live = self.objects(model)
        rows = [row for optimizer in built for row in optimizer.param_groups]
        name_of = {id(tensor): row.get("name") for row in rows for tensor in row["params"]}
        return [
            group
            for group in groups
            if any(name_of.get(id(live[path])) != group.name for path in group.paths)
        ]

    def clear_moments(self, optimizer: Any, tensors: Sequence[Any]) -> None:
        """Make an optimizer forget what it has gathered about some parameters."""
        steering.clear_moments(optimizer, tensors)

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
        """Put several models into a `ModuleDict`."""
        return nn.ModuleDict(dict(models))

    def place(self, model: Any, device: str) -> Any:
        """Move a model to "cpu" or "gpu"."""
        if device not in self.capabilities.devices:
            raise TargetError(
                f"torch sees no {device!r} device here",
                context=f"devices: {', '.join(self.capabilities.devices)}",
                hint="the README says which torch build has CUDA",
            )
        return model.to("cuda" if device == "gpu" else "cpu")

    def device_of(self, model: Any) -> str:
        """Return the kind of device a model is on."""
        return "gpu" if self.anchor(model).device.type == "cuda" else "cpu"

    def seed(self, seed: int) -> None:
        """Seed torch's random generators."""
        torch.manual_seed(seed)
