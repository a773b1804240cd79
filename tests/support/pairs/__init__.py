"""Networks that exist in both frameworks, small enough to run forward and backward in seconds.

`PAIRS` holds them by name; `python -m tests.support.pairs.table` pairs them all and writes down
what came of it. No tensor of one side is named after a tensor of the other anywhere here.
"""

from tests.support.pairs import text, vision
from tests.support.pairs.pair import Pair

PAIRS: dict[str, Pair] = {pair.name: pair for pair in (*vision.PAIRS, *text.PAIRS)}

__all__ = ["PAIRS", "Pair"]
