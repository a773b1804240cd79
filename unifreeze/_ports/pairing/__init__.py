"""Pairing: which tensor of one model is which of another port of the same network."""

from unifreeze._ports.pairing.judge import pair_sketches
from unifreeze._ports.pairing.make_sketch import make_sketch
from unifreeze._ports.pairing.model_sketch import ModelSketch
from unifreeze._ports.pairing.pair_models import Wanted, pair, pair_by, parts_of
from unifreeze._ports.pairing.pairing import Certificate, Pairing, PairRow

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
