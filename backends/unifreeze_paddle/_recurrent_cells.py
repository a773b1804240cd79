"""Which tensor of a recurrent network is which: told by the cells that hold it, not by its name.

`nn.LSTM`, `nn.GRU` and `nn.SimpleRNN` are lists of cells, and give their cells' parameters names of
their own, as PyTorch's have them. The names are handed out in order, so that with a projection or
without a bias they fall on the wrong tensors, and some tensors get none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from paddle import nn
from paddle.nn.layer.rnn import RNNBase, RNNCellBase

_CELLS = {"cell": "", "cell_fw": "", "cell_bw": "_reverse"}
"""What the layers of a recurrent network call their cells, and how PyTorch's names end for each."""
_PROJECTION = re.compile(r"weight_ho|weight_hr_l\d+(?:_reverse)?")


def roles(network: Any) -> dict[int, str]:
    """Return the role of each tensor that the cells of a recurrent network hold, by identity.

    It is what PyTorch calls that tensor: `weight_hr_l0` for the projection of the first layer.
    """
    found: dict[int, str] = {}
    own = {name: tensor for name, tensor in network._parameters.items() if tensor is not None}
    held = list(_held(network))
    inside = {id(tensor) for *_, tensor in held}
    # A tensor that stands on the network alone keeps its name.
    taken = {name for name, tensor in own.items() if id(tensor) not in inside}
    for path, leaf, ending, tensor in held:
        role = f"{'weight_hr' if leaf == 'weight_ho' else leaf}{ending}"
        found.setdefault(id(tensor), f"{path}.{leaf}" if role in taken else role)
    return found


def _held(network: Any) -> Iterator[tuple[str, str, str, Any]]:
    """Give what cells hold: path of the cell, name in it, ending of PyTorch's name, tensor."""
    for number, layer in network._sub_layers.items():
        if not isinstance(layer, nn.RNN | nn.BiRNN):
            continue
        for name, ending in _CELLS.items():
            cell = layer._sub_layers.get(name)
            for leaf, tensor in cell._parameters.items() if cell is not None else ():
                if tensor is not None:
                    yield f"{number}.{name}", leaf, f"_l{number}{ending}", tensor


def projects(module: Any, leaf: str) -> bool:
    """Tell whether a tensor projects a cell's output; it is in x out, as in linear layers."""
    known = isinstance(module, RNNBase | RNNCellBase)
    return known and _PROJECTION.fullmatch(leaf) is not None


def weights(network: Any) -> dict[str, Any]:
    """Return the tensors that a recurrent network's kernel is given and that it does not register.

    They hang in its cells alone, or nowhere; named by their place in the kernel's list.
    """
    own = set(map(id, network._parameters.values()))
    given = network.__dict__.get("_all_weights") or ()
    return {f"{_GIVEN}{n}": tensor for n, tensor in enumerate(given) if id(tensor) not in own}


_GIVEN = "_all_weights."
