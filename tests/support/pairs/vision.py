"""Image classifiers that torchvision and paddle.vision both have, with few classes."""

from __future__ import annotations

from typing import Any

from examples.torchvision_on_cpu import import_torchvision
from tests.support.pairs.pair import Pair, cured, target

CLASSES = 5


def torch_model(name: str, **more: Any) -> Any:
    """Build a network of torchvision's in float64, ready to be evaluated."""
    models = import_torchvision().models
    return getattr(models, name)(num_classes=CLASSES, **more).double().eval()


def paddle_model(
    name: str,
    *,
    epsilon: float | None = None,
    dropout: tuple[float, str] | None = None,
    ceil_mode: bool | None = None,
    stem_padding: int | None = None,
    exact_gates: bool = False,
    **more: Any,
) -> Any:
    """Build a network of paddle.vision's in float64, ready to be evaluated.

    Args:
        name: Its function there.
        epsilon: What every batch norm adds to the variance.
        dropout: Share and mode of every dropout.
        ceil_mode: Whether every max pooling rounds its output size up.
        stem_padding: The padding of the first convolution.
        exact_gates: Whether hard sigmoids are to have a slope of 1/6; Paddle's have 0.1666667.
        more: For the function.
    """
    import paddle
    from paddle.nn import Conv2D, Dropout, Hardsigmoid, MaxPool2D
    from paddle.vision import models

    model = getattr(models, name)(num_classes=CLASSES, **more)
    layers = model.sublayers()
    if epsilon is not None:
        _set([layer for layer in layers if hasattr(layer, "_variance")], _epsilon=epsilon)
    if dropout is not None:
        share, mode = dropout
        _set([layer for layer in layers if isinstance(layer, Dropout)], p=share, mode=mode)
    if ceil_mode is not None:
        _set([layer for layer in layers if isinstance(layer, MaxPool2D)], ceil_mode=ceil_mode)
    if stem_padding is not None:
        first = next(layer for layer in layers if isinstance(layer, Conv2D))
        _set([first], _padding=stem_padding, _updated_padding=[stem_padding] * 2)
    if exact_gates:
        gates = [layer for layer in layers if isinstance(layer, Hardsigmoid)]
        _set(gates, forward=_hard_sigmoid)
    model.to(dtype=paddle.float64)
    model.eval()
    return model


def _hard_sigmoid(x: Any) -> Any:
    from paddle.nn.functional import relu6

    return relu6(x + 3) / 6


def _set(layers: list[Any], **values: Any) -> None:
    if not layers:
        raise ValueError(f"no layer to set {values} in")
    for layer in layers:
        for name, value in values.items():
            if not hasattr(layer, name):
                raise ValueError(f"{type(layer).__name__} has no {name!r}")
            setattr(layer, name, value)


def _pair(name: str, *, size: int = 64, torch: dict[str, Any] | None = None, **paddle: Any) -> Pair:
    return Pair(
        name,
        target(__name__, "torch_model", name, **(torch or {})),
        target(__name__, "paddle_model", name, **paddle),
        (f"float64[2,3,{size},{size}]",),
    )


SAME = (
    *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    "resnext50_32x4d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
    *(f"vgg{depth}" for depth in (11, 13, 16, 19)),
    "mobilenet_v2",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5",
    *(f"densenet{depth}" for depth in (121, 161, 169, 201)),
)


def _with_batch_norm(depth: int) -> Pair:
    name = f"vgg{depth}_bn"
    paddle = target(__name__, "paddle_model", f"vgg{depth}", batch_norm=True)
    return _pair(name)._replace(paddle=paddle)


def _mobilenet_v3(size: str) -> Pair:
    pair = _pair(f"mobilenet_v3_{size}", exact_gates=True)
    return pair._replace(settings=("Paddle's hard sigmoids have a slope of 1/6, not 0.1666667",))


DROPOUT = "dropout scales its output while training, not while evaluating"


def _alexnet() -> Pair:
    # Paddle's has no adaptive pooling before its linear layers.
    paddle = target(__name__, "paddle_model", "alexnet", dropout=(0.5, "upscale_in_train"))
    why = "Paddle's dropout halves its input while evaluating"
    return cured(_pair("alexnet", size=224), why, f"Paddle's {DROPOUT}", paddle=paddle)


def _squeezenet(name: str, **stem: int) -> Pair:
    settings = [f"Paddle's {DROPOUT}", "Paddle's max pooling rounds its output size up"]
    why = "Paddle's dropout halves its input while evaluating, its max pooling rounds sizes down"
    if stem:
        settings.append("Paddle's first convolution does not pad")
        why += ", its first convolution pads"
    made = {"dropout": (0.5, "upscale_in_train"), "ceil_mode": True, **stem}
    paddle = target(__name__, "paddle_model", name, **made)
    return cured(_pair(name), why, *settings, paddle=paddle)


def _inception(name: str, **torch: Any) -> Pair:
    torch = {"init_weights": False, **torch}
    original = _pair("inception_v3", size=96, torch=torch)._replace(name=name)
    made = {"epsilon": 1e-3, "dropout": (0.5, "upscale_in_train")}
    return cured(
        original,
        "Paddle's batch norms add another epsilon, its dropout scales while evaluating",
        "Paddle's batch norms add 1e-3 to the variance",
        f"Paddle's dropout has a share of 0.5 and {DROPOUT.removeprefix('dropout ')}",
        paddle=target(__name__, "paddle_model", "inception_v3", **made),
    )


PAIRS = (
    *map(_pair, SAME),
    *map(_mobilenet_v3, ("small", "large")),
    *map(_with_batch_norm, (11, 13, 16, 19)),
    _alexnet(),
    _squeezenet("squeezenet1_0"),
    _squeezenet("squeezenet1_1", stem_padding=0),
    _inception("inception_v3"),
    _inception("inception_v3 without its second head", aux_logits=False),
    _pair("googlenet", size=224, torch={"init_weights": False})._replace(
        different="Paddle's has no batch norms, larger kernels and three outputs"
    ),
    _pair("shufflenet_v2_x2_0")._replace(
        different="stage 2 is 244 channels wide in torchvision, 224 in Paddle"
    ),
)
