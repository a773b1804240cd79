"""Finding out which tensor of one model is which of another port of the same network."""

from unifreeze._ports.pairing.live_sketch import make_sketch
from unifreeze._ports.pairing.model_sketch import ModelSketch
from unifreeze._ports.pairing.pair_models import SketchRequest, pair, pair_by, parts_of
from unifreeze._ports.pairing.pairing import Certificate, Pairing, PairRow
from unifreeze._ports.pairing.sketch_pairing import pair_sketches
