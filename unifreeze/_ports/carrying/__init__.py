"""Carrying weights over: one port's weights, named and stored as another port has them."""

from unifreeze._ports.carrying.own_weights import Loaded, load_weights
from unifreeze._ports.carrying.port_files import port_file
from unifreeze._ports.carrying.port_models import port_weights
from unifreeze._ports.carrying.transfers import Ported
