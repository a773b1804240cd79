"""Random small networks, each built from one description in both frameworks.

A description says what a network computes and, for each side, how it is written: what its parts are
called, in which order they are registered, what is fused, what has axes of length 1, what the
outputs are put into. The judge knows which tensor is which from the description alone.

    python -m tests.support.pairs.drawn              200 networks
    python -m tests.support.pairs.drawn 17 23        these seeds, with what was said of them
"""

from tests.support.pairs.drawn.description import Description
from tests.support.pairs.drawn.drawing import draw
from tests.support.pairs.drawn.judging import Outcome, judge

__all__ = ["Description", "Outcome", "draw", "judge"]
