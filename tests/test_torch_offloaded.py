"""What `verify` says of values that are not in the model: read where they are, or counted."""

import tempfile
from pathlib import Path

import accelerate
import numpy as np
import paddle
import pytest
import torch
from accelerate.hooks import AlignDevicesHook, ModelHook, add_hook_to_module
from torch import nn

import unifreeze as uf
from tests.support.kits import paddle_nets
from tests.support.kits.torch_nets import Stack, rows
from unifreeze.errors import FrozenDriftError, OptimizerError, TargetError, WeightFileError

PLAN = uf.FreezePlan().only("head")
CPU = torch.device("cpu")


class Net(nn.Module):
    """A tied table, a norm with statistics, and a head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.norm(self.stem(x))))


class Offloaded:
    """A model, and how its values are kept.

    Attributes:
        model: The model.
        write: Changes one value of a tensor, behind the product's back.
        folder: Where the values are on the disk, if they are.
    """

    def __init__(self, model, write, folder=None):
        self.model, self.write, self.folder = model, write, folder


def in_memory(model, **settings):
    kept = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    accelerate.cpu_offload(model, CPU, state_dict=kept, **settings)

    def write(name):
        kept[name].view(-1)[0] += 1

    return Offloaded(model, write)


def on_disk(model, **settings):
    folder = Path(tempfile.mkdtemp())
    accelerate.disk_offload(model, str(folder), CPU, **settings)

    def write(name):
        file = np.memmap(folder / f"{name}.dat", dtype="uint8", mode="r+")
        file[0] ^= 1
        file.flush()

    return Offloaded(model, write, folder)


def dispatched(model):
    """Some in memory, some on the disk, as `device_map` does it."""
    folder = Path(tempfile.mkdtemp())
    kept = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    own = {name: tensor for name, tensor in kept.items() if name.startswith("stem")}
    accelerate.utils.offload_state_dict(
        str(folder), {name: tensor for name, tensor in kept.items() if name not in own}
    )
    places = {"stem": "cpu", "norm": "disk", "head": "cpu"}
    accelerate.dispatch_model(
        model, places, main_device="cpu", state_dict=own, offload_dir=str(folder), force_hooks=True
    )

    def write(name):
        if name.startswith("norm"):
            file = np.memmap(folder / f"{name}.dat", dtype="uint8", mode="r+")
            file[0] ^= 1
            file.flush()
        else:
            with torch.no_grad():
                dict(model.named_parameters())[name].view(-1)[0] += 1

    return Offloaded(model, write)


def among_other_hooks(model):
    made = in_memory(model)
    for module in (model.stem, model.norm):
        add_hook_to_module(module, ModelHook(), append=True)
    return made


def whole_submodules(model):
    """Hooks that place what is below a module too."""
    outer = nn.Module()
    outer.inner = model
    kept = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    hook = AlignDevicesHook(CPU, offload=True, weights_map=kept, place_submodules=True)
    add_hook_to_module(model, hook)

    def write(name):
        kept[name].view(-1)[0] += 1

    return Offloaded(model, write)


WAYS = {
    "in memory": in_memory,
    "on the disk": on_disk,
    "buffers too": lambda model: in_memory(model, offload_buffers=True),
    "dispatched": dispatched,
    "among other hooks": among_other_hooks,
    "whole submodules": whole_submodules,
}


@pytest.fixture(params=WAYS)
def way(request):
    return WAYS[request.param]


def offloaded(made):
    return {name for name, p in made.model.named_parameters() if p.is_meta}


def run(model):
    model.train()
    with torch.no_grad():
        model(rows())


@pytest.mark.parametrize("keep_values", [False, True])
@pytest.mark.parametrize("name", ["stem.weight", "norm.bias"])
def test_a_change_is_found_where_the_values_are(way, name, keep_values):
    made = way(Net())
    assert offloaded(made), "nothing is offloaded, so this test would show nothing"
    handle = PLAN.apply(made.model, keep_values=keep_values)
    for _ in range(2):
        assert handle.verify()[:3] == (4, 3, 0)
        run(made.model)
    made.write(name)
    with pytest.raises(FrozenDriftError, match=rf"{name}: moved") as caught:
        handle.verify()
    assert [drift.path for drift in caught.value.drifts] == [name]
    handle.reapply()  # what is frozen is held to the values it had
    with pytest.raises(FrozenDriftError, match=rf"{name}: moved"):
        handle.verify()
    handle.rebase()
    assert handle.verify().parameters == 4


def test_values_that_are_offloaded_later_are_the_same_values(way):
    model = Net()
    handle = PLAN.apply(model)
    made = way(model)
    run(model)
    assert handle.verify().parameters == 4
    assert handle.verify().unchecked == 0
    made.write("stem.weight")
    with pytest.raises(FrozenDriftError, match=r"stem\.weight: moved"):
        handle.verify()


def test_values_that_cannot_be_read_any_more_are_not_unchanged():
    made = on_disk(Net())
    handle = PLAN.apply(made.model)
    assert handle.verify().parameters == 4
    (made.folder / "stem.weight.dat").unlink()
    with pytest.raises(FrozenDriftError, match=r"stem\.weight"):
        handle.verify()
    handle.rebase()
    assert handle.verify()[:3:2] == (3, 1)


def test_what_was_trained_knows_its_base_although_it_is_offloaded():
    trained = in_memory(Net())
    state = PLAN.apply(trained.model).trainable_state_dict()
    assert np.array_equal(state["tensors"]["head.weight"], Net().head.weight.detach().numpy())
    other = in_memory(Net())
    other.write("stem.weight")
    handle = PLAN.apply(other.model)
    with pytest.raises(WeightFileError, match="another base: 1 tensor differs"):
        handle.load_trainable_state_dict(state)
    # Values written to a placeholder would be lost.
    handle = PLAN.apply(in_memory(Net()).model)
    with pytest.raises(TargetError, match=r"head\.\w+ has no values in the model"):
        handle.load_trainable_state_dict(state)


def test_an_optimizer_over_what_is_offloaded_would_train_nothing():
    made = in_memory(Net())
    handle = PLAN.apply(made.model)
    with pytest.raises(OptimizerError, match=r"2 parameters .* are offloaded: head\.weight"):
        handle.optimizer(torch.optim.SGD, lr=0.1)
    with pytest.raises(OptimizerError, match="are offloaded"):
        handle.check_optimizer(torch.optim.SGD(made.model.parameters(), lr=0.1))
    model = Net()  # with a frozen part offloaded, the rest trains
    kept = {name: tensor.detach().clone() for name, tensor in model.stem.state_dict().items()}
    accelerate.cpu_offload(model.stem, CPU, state_dict=kept)
    handle = PLAN.apply(model)
    optimizer, before = handle.optimizer(torch.optim.SGD, lr=0.1), model.head.weight.clone()
    model(rows()).square().sum().backward()
    optimizer.step()
    assert not torch.equal(model.head.weight, before)
    assert torch.equal(kept["weight"], Net().stem.weight)
    assert handle.verify()[:3] == (4, 3, 0)


# Values that are nowhere.


def on_meta():
    model = Stack()
    model.stem.to("meta")
    return model, 2


def all_on_meta():
    with torch.device("meta"):
        return Stack(), 14 + 6


def lazy():
    model = Stack()
    model.stem = nn.LazyLinear(6)
    return model, 2


def freed():
    model = Stack()
    model.stem.weight.untyped_storage().resize_(0)
    return model, 1


def partitioned():
    """As DeepSpeed's third stage leaves a parameter: empty, with its shape beside it."""
    model = Stack()
    weight = model.stem.weight
    weight.ds_shape, weight.data = weight.shape, torch.empty(0)
    return model, 1


def paddle_lazy():
    model = paddle_nets.Stack()
    with paddle.LazyGuard():
        model.stem = paddle.nn.Linear(6, 6)
    return model, 2


def paddle_cleared():
    model = paddle_nets.Stack()
    model.stem.weight._clear_data()
    return model, 1


@pytest.mark.parametrize("keep_values", [False, True])
@pytest.mark.parametrize(
    "make", [on_meta, all_on_meta, lazy, freed, partitioned, paddle_lazy, paddle_cleared]
)
def test_what_has_no_values_is_counted_and_not_called_unchanged(make, keep_values):
    model, unseen = make()
    handle = PLAN.apply(model, keep_values=keep_values)
    verified = handle.verify()
    held = 4 if make in (paddle_lazy, paddle_cleared) else 6
    assert verified.unchecked == unseen
    assert verified.parameters + verified.states == 14 + held - unseen
    assert f"not checked: {unseen} that have no values here" in str(verified)
    with pytest.raises(TargetError, match=r"stem\.weight has no values"):
        handle._backend.tensor(model, "stem.weight")


def test_all_that_has_values_is_checked():
    for nets in (Stack, paddle_nets.Stack):
        verified = PLAN.apply(nets()).verify()
        assert verified.unchecked == 0
        assert "not checked" not in str(verified)
