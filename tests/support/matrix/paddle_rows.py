"""The rows of Paddle."""

from __future__ import annotations

from tests.support.matrix.cells import Row

ROWS: list[Row] = []
