"""Pairing: which tensor of one model is which of another port of the same network."""

from unifreeze.pairing.judge import pair_sketches
from unifreeze.pairing.live import Wanted, pair, pair_by, parts_of
from unifreeze.pairing.pairing import Certificate, Pairing, PairRow
from unifreeze.pairing.record import ModelSketch
from unifreeze.pairing.sketching import make_sketch

__all__ = [
    "Certificate",
    "ModelSketch",
    "PairRow",
    "Pairing",
    "Wanted",
    "make_sketch",
    "pair",
    "pair_by",
    "pair_sketches",
    "parts_of",
]
