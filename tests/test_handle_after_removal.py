"""What a handle answers once its plan is gone: in words, whatever is asked of it."""

import inspect
from importlib import import_module

import pytest

import unifreeze as uf
from unifreeze.errors import UnifreezeError

PLANS = {
    "one phase": uf.FreezePlan().only("head"),
    "phases": uf.FreezePlan()
    .phase("head", rules={"only": "head"})
    .phase("all", at={"epoch": 2}, add={"train": "all"}),
}
CALLS = {
    "verify": (), "rebase": (), "reapply": (), "remove": (), "check_gradients": (), "groups": (),
    "check_flags": (), "param_groups": (0.1,), "rates": (), "step": (1,), "would_stop": (1,),
    "report": (),
    "state_dict": (), "trainable_state_dict": (), "cached": (), "scalars": (), "model_card": (),
}  # fmt: skip
"""Arguments of the methods that need no optimizer, state or file."""
OTHERS = {
    "optimizer", "attach", "check_optimizer", "estimate", "on_phase", "keep_best",
    "load_state_dict", "save_trained", "load_trainable_state_dict",
}  # fmt: skip


def methods():
    members = inspect.getmembers(uf.Handle, inspect.isfunction)
    return {name for name, _ in members if not name.startswith("_")}


def test_every_method_is_tried():
    assert methods() == CALLS.keys() | OTHERS


@pytest.fixture(params=PLANS)
def removed(request, kit):
    """A handle whose plan was removed, with an optimizer and states that it has made before."""
    model = kit.plain.make()
    handle = PLANS[request.param].apply(model)
    states = {
        "load_state_dict": handle.state_dict(),
        "load_trainable_state_dict": handle.trainable_state_dict(),
    }
    handle.remove()
    return handle, states


@pytest.mark.parametrize("name", sorted(CALLS.keys() | OTHERS))
def test_a_call_answers_or_is_refused_in_words(removed, name, framework, tmp_path):
    handle, states = removed
    optimizers = {"torch": "torch.optim", "paddle": "paddle.optimizer"}
    cls = import_module(optimizers[framework]).AdamW
    arguments = {
        "optimizer": (cls,), "attach": (object(),), "check_optimizer": (object(),),
        "on_phase": (print,), "keep_best": (tmp_path,), "estimate": ("float32[2,3]",),
        "save_trained": (tmp_path / "w.safetensors",),
        **CALLS, **{key: (value,) for key, value in states.items()},
    }[name]  # fmt: skip
    said = ""
    try:
        getattr(handle, name)(*arguments)
    except UnifreezeError as error:
        said = str(error)
    assert len(said) < 1000
