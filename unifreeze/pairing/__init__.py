"""Pairing: which tensor of one model is which of another port of the same network."""

from unifreeze.pairing.live import pair
from unifreeze.pairing.pairing import Certificate, Pairing, PairRow, pair_sketches
from unifreeze.pairing.record import ModelSketch
from unifreeze.pairing.sketching import make_sketch

__all__ = [
    "Certificate",
    "ModelSketch",
    "PairRow",
    "Pairing",
    "make_sketch",
    "pair",
    "pair_sketches",
]
