"""Names for the tensors of a recurrent network, by the cells that hold them.

`nn.LSTM`, `nn.GRU` and `nn.SimpleRNN` are lists of cells, and register their cells' parameters a
second time, under the names that PyTorch has. But they assign these names in order: with a
projection or without a bias, a name belongs to the wrong tensor, and some tensors have none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from paddle import nn
from paddle.nn.layer.rnn import RNNBase, RNNCellBase

_CELLS = {"cell": "", "cell_fw": "", "cell_bw": "_reverse"}
"""Names of the cells in a layer, each with the ending of PyTorch's names for its tensors."""
_PROJECTION = re.compile(r"weight_ho|weight_hr_l\d+(?:_reverse)?")


def roles_in(network: nn.Layer) -> dict[int, str]:
    """Return the role of each tensor that the cells of a recurrent network hold, by identity.

    It is what PyTorch calls that tensor: `weight_hr_l0` for the projection of the first layer.
    """
    roles: dict[int, str] = {}
    registered = {
        name: tensor for name, tensor in network._parameters.items() if tensor is not None
    }
    in_cells = list(_in_cells(network))
    inside = {id(tensor) for *_, tensor in in_cells}
    # A tensor that no cell holds keeps its name.
    taken = {name for name, tensor in registered.items() if id(tensor) not in inside}
    for path, leaf, ending, tensor in in_cells:
        role = f"{'weight_hr' if leaf == 'weight_ho' else leaf}{ending}"
        roles.setdefault(id(tensor), f"{path}.{leaf}" if role in taken else role)
    return roles


def _in_cells(network: nn.Layer) -> Iterator[tuple[str, str, str, Any]]:
    """Yield the path of a cell, a tensor's name in it, the ending of PyTorch's name, the tensor."""
    for number, layer in network._sub_layers.items():
        if not isinstance(layer, nn.RNN | nn.BiRNN):
            continue
        for name, ending in _CELLS.items():
            cell = layer._sub_layers.get(name)
            for leaf, tensor in cell._parameters.items() if cell is not None else ():
                if tensor is not None:
                    yield f"{number}.{name}", leaf, f"_l{number}{ending}", tensor


def projects(module: nn.Layer, leaf: str) -> bool:
    """Return whether a tensor projects a cell's output; it is in x out, as in linear layers."""
    known = isinstance(module, RNNBase | RNNCellBase)
    return known and _PROJECTION.fullmatch(leaf) is not None


def weights(network: nn.Layer) -> dict[str, Any]:
    """Return the tensors in the list for a network's kernel that the network does not register.

    Only its cells hold them, or nothing does. They are named by their place in the list.
    """
    registered = set(map(id, network._parameters.values()))
    listed = enumerate(network.__dict__.get("_all_weights") or ())
    return {f"_all_weights.{n}": tensor for n, tensor in listed if id(tensor) not in registered}
