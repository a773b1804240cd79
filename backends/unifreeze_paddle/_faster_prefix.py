"""Faster ways to run frozen layers in Paddle: exported to `paddle.inference`, or in bfloat16."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import paddle
from paddle import inference, nn
from paddle.static import InputSpec

from unifreeze.backend import Layer, LiveTensor, put_together, take_apart
from unifreeze.errors import CacheError
from unifreeze_paddle import _traced_programs as traced

Lengths: TypeAlias = Sequence[Sequence[int | None]]
_MOST_PROGRAMS = 8
"""Programs of one layer, each with a copy of its weights."""


def check(prefix: str, tensors: Sequence[LiveTensor]) -> None:
    """Refuse a way that Paddle does not have where some tensors are.

    Raises:
        CacheError: It does not.
    """
    if prefix == "compile":
        raise CacheError(
            'prefix="compile" is of PyTorch, and this model is of Paddle',
            hint='prefix="inference"',
        )
    if prefix == "bfloat16":
        if not all(tensor.place.is_gpu_place() for tensor in tensors):
            raise CacheError(
                "on the CPU Paddle computes neither linear layers nor convolutions in bfloat16",
                hint='prefix="inference"; or train on a GPU',
            )
        if not paddle.amp.is_bfloat16_supported():
            raise CacheError("this GPU does not compute in bfloat16", hint='prefix="inference"')


def in_bfloat16(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a layer's forward function with its products and convolutions in bfloat16."""

    def run(*args: Any, **kwargs: Any) -> Any:
        with paddle.amp.auto_cast(dtype="bfloat16", level="O1"):
            return forward(*args, **kwargs)

    return run


class _Exported(NamedTuple):
    """A program that computes what a layer does.

    Attributes:
        lengths: For each input the lengths of its axes; None where any will do.
        predictor: The program.
        result: What is around the tensors that the layer returns.
    """

    lengths: Lengths
    predictor: Any
    result: Any

    def fits(self, shapes: Lengths) -> bool:
        """Return whether it takes inputs of some shapes."""
        return all(
            length in (None, n)
            for axes, shape in zip(self.lengths, shapes, strict=True)
            for length, n in zip(axes, shape, strict=True)
        )


class Exported:
    """A frozen layer as a program of `paddle.inference`, with a copy of its weights.

    The number of rows is left open. Other axes are fixed as they come first, and left open once
    they come with another length: then the layer is exported again. If it cannot be exported with
    open axes, there is a program for each shape of inputs.
    """

    def __init__(self, layer: Layer) -> None:
        self._layer, self._programs = layer, list[_Exported]()
        self._opens = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run a program; the layer is exported first if none fits the inputs."""
        tensors, form = take_apart((args, kwargs), _is_tensor)
        shapes = [list(map(int, tensor.shape)) for tensor in tensors]
        program = next((p for p in self._programs if p.fits(shapes)), None)
        if program is None:
            program = self._add(tensors, form, shapes)
        names = program.predictor.get_input_names()
        outputs = program.predictor.run([tensors[int(name[1:])] for name in names])
        return put_together(program.result, outputs)

    def _add(self, tensors: Sequence[LiveTensor], form: Any, shapes: Lengths) -> _Exported:
        if self._opens:
            try:
                self._programs = [self._export(tensors, form, self._opened(shapes))]
            except Exception:
                self._opens = False  # code makes numbers of the lengths
            else:
                return self._programs[0]
        if len(self._programs) >= _MOST_PROGRAMS:
            raise RuntimeError(
                f"it cannot be exported for inputs of any length, and they come in more than "
                f"{_MOST_PROGRAMS} shapes"
            )
        self._programs.append(self._export(tensors, form, shapes))
        return self._programs[-1]

    def _opened(self, shapes: Lengths) -> Lengths:
        """Return the lengths of axes, with those open that may be others."""
        if not self._programs:
            return [[None, *shape[1:]] if shape else [] for shape in shapes]
        return [
            [length if length == n else None for length, n in zip(axes, shape, strict=True)]
            for axes, shape in zip(self._programs[0].lengths, shapes, strict=True)
        ]

    def _export(self, tensors: Sequence[LiveTensor], form: Any, lengths: Lengths) -> _Exported:
        specs = [
            InputSpec(list(axes), tensor.dtype, f"x{number}")
            for number, (axes, tensor) in enumerate(zip(lengths, tensors, strict=True))
        ]
        program = _Program(self._layer, form)
        with (
            tempfile.TemporaryDirectory() as folder,
            paddle.utils.unique_name.guard(),
            paddle.no_grad(),
        ):
            path = Path(folder, "layer")
            static = paddle.jit.to_static(program, input_spec=[specs], full_graph=True)
            try:
                paddle.jit.save(static, str(path), skip_prune_program=True)
            finally:
                traced.forget(static.forward)
            return _Exported(lengths, _predictor(path, self._layer), program.result)


class _Program(nn.Layer):  # type: ignore[misc]
    """Calls a layer with a list of tensors, and returns a list of them."""

    def __init__(self, layer: Layer, form: Any) -> None:
        super().__init__()
        self.layer = layer
        self.result: Any = None

        def inputs(tensors: Any) -> Any:
            return put_together(form, tensors)

        def outputs(result: Any) -> Any:
            tensors, self.result = take_apart(result, _is_tensor, once=True)
            return tensors

        leave = paddle.jit.not_to_static
        self._inputs, self._outputs = leave(inputs), leave(outputs)

    def forward(self, tensors: Any) -> Any:
        """Run the layer."""
        args, kwargs = self._inputs(tensors)
        return self._outputs(self.layer(*args, **kwargs))


def _predictor(path: Path, layer: Layer) -> Any:
    config = inference.Config(f"{path}.json", f"{path}.pdiparams")
    config.disable_glog_info()
    place = next(iter(layer.parameters())).place
    if place.is_gpu_place():
        config.enable_use_gpu(256, place.gpu_device_id())
    else:
        threads = paddle.get_flags("FLAGS_paddle_num_threads")["FLAGS_paddle_num_threads"]
        config.set_cpu_math_library_num_threads(threads)
    return inference.create_predictor(config)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, paddle.Tensor | paddle.pir.Value)
