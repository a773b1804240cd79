"""The rows of Paddle."""

from __future__ import annotations

from tests.support.matrix import paddle_alone, paddle_engines, paddle_trainers
from tests.support.matrix.cells import Row

ROWS: list[Row] = [*paddle_engines.ROWS, *paddle_trainers.ROWS, *paddle_alone.ROWS]
