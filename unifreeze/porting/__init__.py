"""Porting: one model's weights laid out and named as another port of the network has them."""

from unifreeze.porting.files import port_file
from unifreeze.porting.live import port_weights
from unifreeze.porting.route import Ported

__all__ = ["Ported", "port_file", "port_weights"]
