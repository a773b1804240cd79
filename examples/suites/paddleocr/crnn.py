"""A small network that stands for PaddleOCR's: no wheel has `ppocr.modeling` and `ppocr.losses`.

It has the parts of BaseModel, `backbone`, `neck` and `head`, and its way through them. A clone of
PaddleOCR needs nothing of this file: `build_model` and `build_loss` are PaddleOCR's own there.
"""

import sys
from types import ModuleType
from typing import Any

import paddle
from paddle import nn

CHARACTERS = 12
"""How many characters there are, with the blank."""


class BaseModel(nn.Layer):
    """Convolutions, a recurrent layer over the columns, a character for each."""

    def __init__(self, channels: int = 16, hidden: int = 24) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            *(self._block(3 if n == 0 else channels, channels) for n in range(4))
        )
        self.neck = nn.LSTM(channels, hidden, direction="bidirect")
        self.head = nn.Linear(2 * hidden, CHARACTERS)

    def _block(self, of: int, to: int) -> nn.Layer:
        conv = nn.Conv2D(of, to, 3, stride=(2, 1), padding=1, bias_attr=False)
        return nn.Sequential(conv, nn.BatchNorm2D(to), nn.Hardswish())

    def forward(self, x: Any, data: Any = None) -> Any:
        """Return the scores of each column's characters."""
        x = self.backbone(x)
        x, _ = self.neck(x.mean(axis=2).transpose([0, 2, 1]))
        return self.head(x)


def build_model(_architecture: dict[str, Any]) -> BaseModel:
    """Return the network."""
    return BaseModel()


def build_loss(_loss: dict[str, Any]) -> Any:
    """Return the loss for sequences without places."""

    def loss(predicted: Any, batch: Any) -> dict[str, Any]:
        columns, rows = predicted.shape[1], predicted.shape[0]
        lengths = paddle.full([rows], columns, "int64")
        scores = predicted.transpose([1, 0, 2])
        return {"loss": nn.CTCLoss()(scores, batch[1], lengths, batch[2])}

    return loss


def stand_in() -> None:
    """Let the wheel's loop be imported: it imports `build_model` to write models out."""
    for name in ("ppocr.modeling", "ppocr.modeling.architectures"):
        sys.modules.setdefault(name, ModuleType(name))
    vars(sys.modules["ppocr.modeling.architectures"]).setdefault("build_model", build_model)
