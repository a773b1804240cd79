"""What the search through layer classes does in each framework."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import numpy as np
import paddle
import torch

from examples.torchvision_on_cpu import import_torchvision
from tests.support.layer_states.found import WIDTH, Found

import_torchvision()


class Torch:
    """PyTorch and torchvision."""

    name, base = "torch", torch.nn.Module
    roots = ("torch.nn", "torch.ao", "torchvision.ops")
    special: ClassVar = {"qconfig": lambda: torch.ao.quantization.get_default_qat_qconfig("fbgemm")}

    @staticmethod
    def seed() -> None:
        torch.manual_seed(0)

    @staticmethod
    def make(cls: type, arguments: Any) -> Any:
        """Build a layer; what its class leaves as memory happens to be, becomes zero."""
        torch.use_deterministic_algorithms(True)  # fills such memory with NaN
        try:
            layer = cls(**arguments)
        finally:
            torch.use_deterministic_algorithms(False)
        with torch.no_grad():
            for tensor in layer.parameters():
                if tensor.is_floating_point() and not torch.nn.parameter.is_lazy(tensor):
                    tensor.nan_to_num_()
        return layer

    @staticmethod
    def tensor(rows: Any) -> Any:
        made = torch.tensor(rows)
        return made.float() if made.is_floating_point() else made

    @classmethod
    def run(cls, layer: Any, rows: Any) -> Any:
        with torch.no_grad():
            result = layer(cls.tensor(rows))
        if not isinstance(result, torch.Tensor):
            raise TypeError("no tensor comes out")
        return result.numpy()

    @staticmethod
    def train(layer: Any) -> None:
        layer.train()

    @staticmethod
    def infer(layer: Any) -> None:
        layer.eval()

    @staticmethod
    def state(layer: Any) -> dict[str, bytes]:
        named = layer.state_dict().items()
        # A clone: observers resize their buffers, which one that NumPy looks at cannot be.
        return {name: tensor.clone().numpy().tobytes() for name, tensor in named}

    @staticmethod
    def other(rows: Any) -> Any:
        return rows[::-1].copy() + (3 if rows.dtype.kind == "f" else 0)

    @staticmethod
    def copy(layer: Any) -> Any:
        return copy.deepcopy(layer)

    @staticmethod
    def is_lazy(layer: Any) -> bool:
        named = [*layer.named_parameters(), *layer.named_buffers()]
        return any(torch.nn.parameter.is_lazy(tensor) for _, tensor in named)

    @staticmethod
    def wrapped() -> list[Found]:
        """Layers whose state comes from a function that wraps them."""
        from torch.nn.utils import parametrizations, spectral_norm

        rows = np.random.default_rng(1).standard_normal((6, WIDTH))

        def build(wrap: Any) -> Any:
            Torch.seed()
            return wrap(torch.nn.Linear(WIDTH, WIDTH))

        functions = (spectral_norm, parametrizations.spectral_norm)
        return [
            Found(f"{f.__module__}.{f.__name__}", {}, lambda f=f: build(f), rows) for f in functions
        ]

    class Scale(torch.nn.Module):
        """Multiplies by a parameter."""

        def __init__(self) -> None:
            super().__init__()
            self.factor = torch.nn.Parameter(torch.ones(1))

        def forward(self, x: Any) -> Any:
            return x * self.factor if x.is_floating_point() else x

    @classmethod
    def encoder(cls, layer: Any) -> Any:
        """A flat encoder around a layer, and a head."""
        net = torch.nn.Sequential(cls.Scale(), layer, cls.Scale(), cls.Scale())
        return net


class Paddle:
    """PaddlePaddle."""

    name, base = "paddle", paddle.nn.Layer
    roots = ("paddle.nn", "paddle.incubate.nn", "paddle.sparse.nn", "paddle.vision.ops")
    roots = (*roots, "paddle.quantization")
    special: ClassVar = {}

    @staticmethod
    def seed() -> None:
        paddle.seed(0)

    @staticmethod
    def make(cls: type, arguments: Any) -> Any:
        """Build a layer."""
        return cls(**arguments)

    @staticmethod
    def tensor(rows: Any) -> Any:
        return paddle.to_tensor(rows.astype("float32") if rows.dtype.kind == "f" else rows)

    @classmethod
    def run(cls, layer: Any, rows: Any) -> Any:
        with paddle.no_grad():
            result = layer(cls.tensor(rows))
        if not isinstance(result, paddle.Tensor):
            raise TypeError("no tensor comes out")
        return result.numpy()

    @staticmethod
    def train(layer: Any) -> None:
        layer.train()

    @staticmethod
    def infer(layer: Any) -> None:
        layer.eval()

    @staticmethod
    def state(layer: Any) -> dict[str, bytes]:
        named = layer.state_dict().items()
        return {name: tensor.numpy().tobytes() for name, tensor in named}

    other = staticmethod(Torch.other)

    @staticmethod
    def copy(layer: Any) -> Any:
        return copy.deepcopy(layer)

    @staticmethod
    def is_lazy(layer: Any) -> bool:
        return False

    @staticmethod
    def wrapped() -> list[Found]:
        """Layers whose state comes from a function that wraps them."""
        from paddle.nn.utils import spectral_norm

        rows = np.random.default_rng(1).standard_normal((6, WIDTH))

        def build() -> Any:
            paddle.seed(0)
            return spectral_norm(paddle.nn.Linear(WIDTH, WIDTH))

        voxels = np.random.default_rng(1).standard_normal((2, 3, 3, 3, WIDTH))
        return [
            Found("paddle.nn.utils.spectral_norm", {}, build, rows),
            Found("paddle.sparse.nn.BatchNorm", {}, Paddle.Sparse, voxels),
        ]

    class Sparse(paddle.nn.Layer):
        """The batch norm of sparse tensors, which takes nothing else."""

        def __init__(self) -> None:
            super().__init__()
            self.norm = paddle.sparse.nn.BatchNorm(WIDTH)

        def forward(self, x: Any) -> Any:
            return self.norm(x.to_sparse_coo(4)).to_dense()

    class Scale(paddle.nn.Layer):
        """Multiplies by a parameter."""

        def __init__(self) -> None:
            super().__init__()
            one = paddle.nn.initializer.Constant(1.0)
            self.factor = self.create_parameter([1], default_initializer=one)

        def forward(self, x: Any) -> Any:
            return x * self.factor if "float" in str(x.dtype) else x

    @classmethod
    def encoder(cls, layer: Any) -> Any:
        """A flat encoder around a layer, and a head."""
        return paddle.nn.Sequential(cls.Scale(), layer, cls.Scale(), cls.Scale())


SIDES = {"torch": Torch, "paddle": Paddle}
