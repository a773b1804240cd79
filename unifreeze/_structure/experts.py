"""Mixture-of-experts layers: which parameters are an expert's, a shared expert's, a router's.

Experts stand in a list called so, or share one tensor in a module called so. Beside them are the
router, whose tensors have an axis as long as there are experts, and experts that all tokens use.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from unifreeze._structure.tree import Tree
from unifreeze._structure.words_in_names import (
    ATTENTION,
    CONTAINER,
    EXPERTS,
    balances_experts,
    words_in,
)
from unifreeze._structure.zones import Placement

_SHARED = re.compile(r"(?:\w+_)?shared_?(?:experts?|mlp|ffn)(?:_\w+)?")
_ROUTER = re.compile(r"(?:\w+_)?router(?:_\w+)?|(?:moe_|top_?k_?)?gat(?:e|ing)(?:_network)?|wg")
_CLASS = re.compile(r"\w*Experts")


@dataclass(frozen=True)
class ExpertLayer:
    """One mixture-of-experts layer.

    Attributes:
        module: The module that holds the experts.
        experts: The modules of its experts in order; () where they share tensors.
        count: How many experts it has, 0 where that is unknown.
    """

    module: int
    experts: tuple[int, ...]
    count: int


@dataclass(frozen=True)
class ExpertParts:
    """The mixture-of-experts layers of a model.

    Attributes:
        layers: All of them, in order of registration.
        roles: For each name in or beside them: "experts", "shared_experts" or "router".
        routers_of: For each module that keeps a router's balancing bias as state, the names of the
            router's parameters.
    """

    layers: tuple[ExpertLayer, ...]
    roles: dict[int, str]
    routers_of: dict[int, tuple[int, ...]]


def find_experts(tree: Tree, at: Placement) -> ExpertParts:
    """Find the mixture-of-experts layers of a model, with their routers and shared experts."""
    layers = tuple(_layers(tree))
    roles: dict[int, str] = {}
    for layer in layers:
        for name in range(tree.name_starts[layer.module], tree.name_ends[layer.module]):
            inside = tree.names[name][len(tree.paths[layer.module]) + 1 :].split(".")
            roles[name] = "router" if any("router" in s.lower() for s in inside) else "experts"
    for layer in layers:
        around = tree.parents[layer.module]
        low, high = tree.name_starts[around], tree.name_ends[around]
        for name in range(low, high):
            if name not in roles and (role := _role(tree, at, name, around, layer.count)):
                roles[name] = role
        for name in _shared_beside(tree, at, around):
            roles.setdefault(name, "shared_experts")
    return ExpertParts(layers, roles, _routers(tree, layers, roles))


def _routers(
    tree: Tree, layers: Iterable[ExpertLayer], roles: Mapping[int, str]
) -> dict[int, tuple[int, ...]]:
    """Return the router of each module that keeps a balancing bias as state."""
    owners = {s.owner for s in tree.states if balances_experts(s.path.rpartition(".")[2])}
    routers: dict[int, tuple[int, ...]] = {}
    for layer in layers if owners else ():
        around = tree.parents[layer.module]
        names = range(tree.name_starts[around], tree.name_ends[around])
        router = tuple(name for name in names if roles.get(name) == "router")
        inside = [owner for owner in owners if around <= owner < tree.ends[around]]
        if router:
            routers |= dict.fromkeys(inside, router)
    return routers


def _layers(tree: Tree) -> Iterator[ExpertLayer]:
    end = 0
    for module in range(1, len(tree.paths)):
        if module < end or tree.name_starts[module] == tree.name_ends[module]:
            continue
        named = words_in(tree.paths[module].rpartition(".")[2]) & EXPERTS
        if not named and not (_CLASS.fullmatch(tree.types[module])):
            continue
        if _SHARED.fullmatch(tree.paths[module].rpartition(".")[2]):
            continue
        end = tree.ends[module]
        experts = _listed(tree, module)
        yield ExpertLayer(module, experts, len(experts) or _first_axis(tree, module))


def _listed(tree: Tree, module: int) -> tuple[int, ...]:
    """Return the experts under a module: children of a list, which may stand in another module."""
    children = [c for c in tree.children(module) if tree.name_starts[c] < tree.name_ends[c]]
    if tree.kinds[module] == CONTAINER:
        return tuple(tree.children(module))
    if len(children) == 1:
        return _listed(tree, children[0])
    alike = len({tree.types[child] for child in children}) == 1
    numbered = all(re.search(r"\d$", tree.paths[child]) for child in children)
    return tuple(children) if len(children) > 1 and alike and numbered else ()


def _first_axis(tree: Tree, module: int) -> int:
    """Return the length of the first axis of tensors that hold all experts, 0 if there is none."""
    names = range(tree.name_starts[module], tree.name_ends[module])
    shapes = [tree.tensors[tree.tensor_of[name]].shape for name in names]
    return next((shape[0] for shape in shapes if len(shape) == 3), 0)


def _role(tree: Tree, at: Placement, name: int, around: int, count: int) -> str:
    """Return what a tensor beside experts is: of a shared expert, of the router, or neither."""
    owner = tree.owners[name]
    depth = tree.paths[around].count(".") + 1 if tree.paths[around] else 0
    segments = tree.names[name].split(".")[depth:]
    if any(_is_shared(segment) for segment in segments):
        return "shared_experts"
    if at.words[owner] & ATTENTION or at.kinds[owner] == "norm":
        return ""
    if any(_is_router(segment) for segment in segments):
        return "router"
    shape = tree.tensors[tree.tensor_of[name]].shape
    near = owner == around or tree.parents[owner] == around
    return "router" if near and count > 1 and count in shape and len(shape) < 3 else ""


def _shared_beside(tree: Tree, at: Placement, around: int) -> Iterator[int]:
    """Yield names of a shared expert that stands beside the whole layer, in the same block."""
    above = tree.parents[around]
    if above < 0 or at.unit_of.get(around, -1) != at.unit_of.get(above, -1):
        return
    for child in tree.children(above):
        if _is_shared(tree.paths[child].rpartition(".")[2]):
            yield from range(tree.name_starts[child], tree.name_ends[child])


@cache
def _is_shared(segment: str) -> bool:
    return bool(_SHARED.fullmatch(segment.lower()))


@cache
def _is_router(segment: str) -> bool:
    return bool(_ROUTER.fullmatch(segment.lower()))
