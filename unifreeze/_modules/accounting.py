"""Check that a description has every parameter that the framework lists, each once.

A parameter that the description misses would train under every plan, and no count and no check
would include it.
"""

from __future__ import annotations

from collections.abc import Iterator, Set

from unifreeze._modules.reader import Reader
from unifreeze._modules.walking import Walk
from unifreeze._modules.wrapping import beside, join, wrappers
from unifreeze._protocol.live import LiveTensor, Model
from unifreeze._protocol.results import Finding
from unifreeze.errors import DescriptionError, counted, listing


def check_accounted(reader: Reader, root: Model, walk: Walk) -> None:
    """Compare a walk with the list of parameters that the framework itself makes.

    Making that list takes half as long as a walk. It is skipped where all classes are plain: there
    it holds what the modules' dictionaries hold, which the walk has read.

    Raises:
        DescriptionError: A parameter is missing on either side, or is state in another place.
    """
    _check_disjoint(walk)
    if left := walk.unaccounted():
        raise _unreached("the model", _listed(reader, root) or [], set(map(id, left)))
    if all(map(reader.plain, walk.one_of_each_class())):
        return
    if not walk.tree.members:
        _compare(reader, root, walk, 0)
        return
    # One model at a time: the framework may count models that compare equal only once.
    models = reader.dicts(root)[0].values()
    for model, index in zip(models, walk.tree.children(0), strict=True):
        _compare(reader, model, walk, index)


def parameters_beside(reader: Reader, model: Model) -> Iterator[Finding]:
    """Yield a finding for parameters that wrappers hold beside a model: no plan reaches them.

    Copies that are not in use do not count.
    """
    for wrapper, inner in wrappers(reader, model):
        held = [
            join(path, leaf)
            for path, _, (_, parameters, _) in beside(reader, wrapper, inner)
            for leaf, tensor in parameters.items()
            if tensor is not None
        ]
        if not all(reader.idle(wrapper, path) for path in held):
            yield Finding(
                type(wrapper).__name__,
                "it holds parameters beside the model, such as prompts, which the plan leaves out",
                "give the plan the model inside it, and set their flags yourself",
            )


def _check_disjoint(walk: Walk) -> None:
    """Refuse a tensor that is a parameter in one place and state in another."""
    parameters = walk.tree.numbers.keys()
    both = [state.path for state, tensor in walk.kept() if id(tensor) in parameters]
    if both:
        raise DescriptionError(
            f"{listing(both)}: kept as statistics or other state in one place, and as a parameter "
            "to train in another",
            context="no plan can decide for both uses of one tensor",
            hint="give each use a tensor of its own",
        )


def _compare(reader: Reader, model: Model, walk: Walk, index: int) -> None:
    called = walk.tree.paths[index] or "the model"
    named = _listed(reader, model)
    if named is None:
        return
    listed, walked = {id(tensor) for _, tensor in named}, walk.accounted(index)
    if listed - walked:
        raise _unreached(called, named, listed - walked)
    if walked - listed:
        raise _left_out(called, walk, walked - listed)


def _listed(reader: Reader, model: Model) -> list[tuple[str, LiveTensor]] | None:
    """Return the framework's list; None where a module has no hash, which the list needs."""
    try:
        return list(reader.listed(model))
    except TypeError:
        return None


_EQUALITY = (
    "a module class that defines __eq__, as a dataclass does, is compared by values: the framework "
    "takes modules that compare equal for one"
)
_IDENTITY = "compare modules by identity: @dataclass(eq=False)"


def _unreached(
    called: str, named: list[tuple[str, LiveTensor]], missed: Set[int]
) -> DescriptionError:
    names = [name for name, tensor in named if id(tensor) in missed]
    return DescriptionError(
        f"{len(missed)} of the parameters that the framework lists of {called} are not reached: "
        f"{listing(names)}",
        context="a plan could not freeze them, and no count or check would name them",
        hint="hold them in a plain module; if a library's wrapper holds them, please report it",
    )


def _left_out(called: str, walk: Walk, left: Set[int]) -> DescriptionError:
    names = [path for path, tensor in walk.named() if id(tensor) in left]
    names += [state.path for state, tensor in walk.kept() if id(tensor) in left]
    types = {type(module).__name__ for module in walk.modules if _compares_values(type(module))}
    reason = f"{_EQUALITY}; here: {listing(sorted(types))}" if types else ""
    return DescriptionError(
        f"the framework leaves {counted(len(left), 'parameter')} out of its own list of {called}: "
        f"{listing(names)}",
        context=f"an optimizer built from that list would never train them\n{reason}",
        hint=_IDENTITY if types else "build optimizers and plans from one model that lists them",
    )


def _compares_values(cls: type) -> bool:
    return any(getattr(cls, name) is not getattr(object, name) for name in ("__eq__", "__hash__"))
