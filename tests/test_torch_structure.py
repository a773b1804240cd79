"""PyTorch: wrappers seen through, ties and shared memory, odd parameters, odd models.

The rules R3, R5, R6, R7, R8, R10 and R12 are those of the opening table of the facts about PyTorch.
"""

from __future__ import annotations

import copy
from importlib.metadata import version

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    CheckpointImpl,
    checkpoint_wrapper,
)
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.utils import parametrizations, prune
from torch.nn.utils import weight_norm as old_weight_norm
from torch.optim.swa_utils import AveragedModel

import unifreeze as uf
from examples.torchvision_on_cpu import import_torchvision
from tests.support.kits.torch_nets import Stack, backward, bits, moved, rows, seeded
from unifreeze import FreezePlan
from unifreeze._protocol import load_backend
from unifreeze.errors import (
    FixedParameterError,
    FrozenDriftError,
    TieConflictError,
    UnsupportedPlanError,
)

backend = load_backend("torch")


@pytest.fixture
def one_process(tmp_path):
    """A process group of one."""
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def described(model):
    """The parameters as the backend describes them."""
    return backend.describe(model).parameters


def names(model):
    """Native paths with their canonical names."""
    return {p.path: p.name for p in described(model)}


def train(handle, model, count=2):
    """Steps as a loop does them, with the handle's own optimizer."""
    optimizer = handle.optimizer(torch.optim.AdamW, lr=0.1, weight_decay=0.1)
    for number in range(count):
        model.train()
        optimizer.zero_grad()
        backward(model, seed=number)
        optimizer.step()


# R5: wrappers are seen through by type ----------------------------------------------------------


def checkpointed(model):
    for number, block in enumerate(model.blocks):
        model.blocks[number] = checkpoint_wrapper(block)
    return model


def partly_compiled(model):
    model.blocks[0] = torch.compile(model.blocks[0], backend="eager")
    return model


def compiled_in_place(model):
    model.compile(backend="eager")
    return model


WRAPPERS = {
    "DataParallel": DataParallel,
    "compile": lambda model: torch.compile(model, backend="eager"),
    "compile in place": compiled_in_place,
    "compile of a block": partly_compiled,
    "AveragedModel": AveragedModel,
    "checkpoint_wrapper": checkpointed,
    "compile around DataParallel": lambda m: torch.compile(DataParallel(m), backend="eager"),
    "DataParallel around compile": lambda m: DataParallel(torch.compile(m, backend="eager")),
    "all of them": lambda m: AveragedModel(DataParallel(partly_compiled(checkpointed(m)))),
}
IN_PROCESS_GROUP = {
    "DDP": DistributedDataParallel,
    "compile around DDP": lambda m: torch.compile(DistributedDataParallel(m), backend="eager"),
    "FSDP with original parameters": lambda m: FullyShardedDataParallel(
        m, use_orig_params=True, device_id=torch.device("cpu")
    ),
    "fully_shard": lambda m: [fully_shard(part) for part in (*m.blocks, m)][-1],
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapped_model_has_the_names_of_the_model_itself(wrapper):
    """R5"""
    assert names(WRAPPERS[wrapper](seeded(Stack))) == names(seeded(Stack))


@pytest.mark.parametrize("wrapper", IN_PROCESS_GROUP)
def test_a_distributed_model_has_the_names_of_the_model_itself(wrapper, one_process):
    """R5"""
    assert names(IN_PROCESS_GROUP[wrapper](seeded(Stack))) == names(seeded(Stack))


@pytest.mark.parametrize("wrapper", ["DataParallel", "checkpoint_wrapper", "compile in place"])
def test_a_plan_applied_through_a_wrapper_holds_in_training(wrapper):
    """R5"""
    model = seeded(Stack)
    wrapped = WRAPPERS[wrapper](model)
    handle = uf.freeze(wrapped, "blocks | stem")
    before = bits(model)
    train(handle, wrapped)
    assert {name.split(".")[0] for name in moved(model, before)} == {"head"}
    handle.verify()


def test_a_plan_is_the_models_whether_applied_to_it_or_to_its_wrapper():
    """R5"""
    model = seeded(Stack)
    first = uf.freeze(DataParallel(model), "blocks")
    second = uf.freeze(model, "stem")
    with pytest.raises(uf.UnifreezeError, match="no longer in force"):
        first.verify()
    second.remove()
    assert all(p.requires_grad for p in model.parameters())


class Inner(nn.Module):
    """Has children called as wrappers call theirs."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6))
        self.module = nn.Linear(6, 6)
        self._orig_mod = nn.Linear(6, 6)
        self._checkpoint_wrapped_module = nn.Linear(6, 6)
        self.base_model = nn.Linear(6, 6)
        self.base_layer = nn.Linear(6, 2)


def test_a_users_child_called_like_a_wrappers_is_not_cut():
    """R5: cutting "module." out of names would make two of them one."""
    model = Inner()
    assert list(names(model)) == [name for name, _ in model.named_parameters()]
    assert names(DataParallel(model)) == names(model)
    uf.freeze(DataParallel(model), "module")
    assert model.weight.requires_grad
    assert not model.module.weight.requires_grad


# R7: DistributedDataParallel -------------------------------------------------------------------


def test_a_plan_applied_before_ddp_wraps_holds_in_training(one_process):
    """R7"""
    model = seeded(Stack)
    handle = uf.freeze(model, "blocks | stem")
    wrapped = DistributedDataParallel(model)
    before = bits(model)
    train(handle, wrapped)
    assert {name.split(".")[0] for name in moved(model, before)} == {"head"}
    handle.verify()


@pytest.mark.parametrize(
    "wrap",
    [
        DistributedDataParallel,
        lambda m: DistributedDataParallel(m, static_graph=True, find_unused_parameters=True),
        lambda m: torch.compile(DistributedDataParallel(m), backend="eager"),
    ],
    ids=["plain", "static graph", "compiled"],
)
def test_freezing_after_ddp_has_wrapped_is_refused(wrap, one_process):
    """R7: its next forward would fail, and this step's gradients would not be averaged."""
    model = seeded(Stack)
    with pytest.raises(UnsupportedPlanError, match="apply the plan first, then wrap"):
        uf.freeze(wrap(model), "stem")
    with pytest.raises(UnsupportedPlanError, match="apply the plan first, then wrap"):
        uf.apply(FreezePlan().freeze("student.stem"), {"student": wrap(model)})
    assert all(p.requires_grad for p in model.parameters())


def test_freezing_under_a_ddp_that_looks_for_unused_parameters_holds(one_process):
    """R7"""
    model = seeded(Stack)
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    handle = uf.freeze(wrapped, "stem")
    before = bits(model)
    train(handle, wrapped, 3)
    assert "stem.weight" not in moved(model, before)
    assert handle.check_gradients() == ()


def test_thawing_under_ddp_is_refused_where_there_are_others_to_synchronise_with(one_process):
    """R7: ranks would drift apart without an error."""
    model = seeded(Stack)
    model.stem.requires_grad_(False)
    wrapped = DistributedDataParallel(model)

    class TwoRanks:
        def size(self):
            return 2

    wrapped.process_group, alone = TwoRanks(), wrapped.process_group
    with pytest.raises(UnsupportedPlanError, match=r"stem\.weight"):
        uf.apply(FreezePlan().train("all"), wrapped)
    wrapped.process_group = alone
    uf.apply(FreezePlan().train("all"), wrapped)
    assert model.stem.weight.requires_grad


def test_another_models_plan_is_no_concern_of_ddp(one_process):
    """R7"""
    student, teacher = seeded(Stack), seeded(Stack)
    uf.apply(
        FreezePlan().freeze("teacher"),
        {"student": DistributedDataParallel(student), "teacher": teacher},
    )
    assert not any(p.requires_grad for p in teacher.parameters())


# R8: FSDP --------------------------------------------------------------------------------------


def sharded():
    model = seeded(Stack)
    for block in model.blocks:
        fully_shard(block)
    return fully_shard(model)


def pass_without_backward(model):
    model.eval()
    with torch.no_grad():
        model(rows())


def local_bits(model):
    named = [*model.named_parameters(), *model.named_buffers()]
    return {n: getattr(t, "to_local", lambda t=t: t)().detach().clone() for n, t in named}


@pytest.mark.parametrize("how", ["at once", "after an evaluation", "after unshard", "with a batch"])
def test_flags_set_on_a_sharded_model_last(how, one_process):
    """R8: a flag set while FSDP shows unsharded parameters would be gone at the next step."""
    model = sharded()
    if how == "after an evaluation":
        pass_without_backward(model)
        assert not isinstance(model.head.weight, dist.tensor.DTensor)
    if how == "after unshard":
        model.unshard()
    batch = rows().numpy() if how == "with a batch" else None
    plan = FreezePlan().freeze("blocks | stem")
    handle = uf.apply(plan, model, batch=batch, keep_values=True)
    before = local_bits(model)
    train(handle, model, 3)
    for name, tensor in local_bits(model).items():
        assert torch.equal(tensor, before[name]) == (not name.startswith("head")), name
    assert handle.check_gradients() == ()
    pass_without_backward(model)
    assert handle.verify().parameters == len(handle.resolution.frozen_paths)


def test_sharding_after_the_plan_is_told_and_taken_in(one_process):
    """R8: `fully_shard` puts new parameters in place of the old."""
    model = seeded(Stack)
    handle = uf.freeze(model, "blocks | stem")
    fully_shard(model)
    with pytest.raises(FrozenDriftError, match="replaced"):
        handle.verify()
    handle.reapply()
    before = local_bits(model)
    train(handle, model)
    assert torch.equal(local_bits(model)["stem.weight"], before["stem.weight"])
    handle.verify()


def test_a_change_in_a_shard_is_seen(one_process):
    """R8, R11"""
    model = sharded()
    handle = uf.freeze(model, "blocks")
    with torch.no_grad():
        model.blocks[1].first.bias.to_local()[0] += 1
    with pytest.raises(FrozenDriftError, match=r"blocks\.1\.first\.bias: moved"):
        handle.verify()


def test_fsdp_with_flattened_parameters_is_refused(one_process):
    """R8: part of a flat parameter cannot be frozen."""
    model = FullyShardedDataParallel(
        seeded(Stack), use_orig_params=False, device_id=torch.device("cpu")
    )
    with pytest.raises(UnsupportedPlanError, match="use_orig_params"):
        uf.apply(FreezePlan().freeze("all"), model)


def test_fsdp_with_original_parameters_holds_in_training(one_process):
    """R8"""
    model = seeded(Stack)
    wrapped = IN_PROCESS_GROUP["FSDP with original parameters"](model)
    handle = uf.freeze(wrapped, "blocks | stem")
    before = {n: p.detach().clone() for n, p in handle._backend.objects(wrapped).items()}
    train(handle, wrapped)
    after = handle._backend.objects(wrapped)
    assert not torch.equal(after["head.weight"], before["head.weight"])
    assert torch.equal(after["stem.weight"], before["stem.weight"])
    handle.verify()


# R5: adapters ----------------------------------------------------------------------------------


class Tail(nn.Module):
    def __init__(self, *, norm):
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6) if norm else nn.LayerNorm(6)

    def forward(self, x):
        return self.norm(self.linear(x))


class Adapted(nn.Module):
    def __init__(self, *, norm=False):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6)
        self.drop = nn.Dropout(0.5)
        self.tail = Tail(norm=norm)

    def forward(self, x):
        return self.tail(self.drop(self.norm(self.first(x))))


@pytest.fixture(scope="module")
def lora():
    """A function that puts low-rank adapters on a model."""
    import_torchvision()
    import peft

    def adapt(model, **settings):
        config = peft.LoraConfig(target_modules=["first"], r=2, lora_dropout=0.5, **settings)
        return peft.get_peft_model(model, config)

    return adapt


def test_adapters_are_added_to_the_names_and_shift_none(lora):
    """R5"""
    plain, adapted = names(Adapted()), names(lora(Adapted()))
    added = {path: adapted.pop(path) for path in set(adapted) - set(plain)}
    assert adapted == plain
    assert set(added) == {"first.lora_A.default.weight", "first.lora_B.default.weight"}
    assert set(added.values()) == {"net/linear.0/lora_A", "net/linear.0/lora_B"}


def test_only_adapter_trains_what_the_adapter_library_trains(lora):
    """R5: modules to save included."""
    model = lora(Adapted(), modules_to_save=["tail"])
    expected = {n for n, p in model.named_parameters() if p.requires_grad}
    assert any("modules_to_save" in name for name in expected)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "original_module" not in name
    handle = uf.apply(FreezePlan().only("adapter"), model)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == expected
    before = bits(model)
    train(handle, model)
    assert moved(model, before) == expected
    handle.verify()


def test_dropout_off_leaves_the_adapters_dropout_alone(lora):
    """R4: the adapter trains."""
    model = lora(Adapted())
    uf.apply(FreezePlan().only("adapter").with_dropout("off"), model)
    model.train()
    assert model.base_model.model.first.lora_dropout["default"].training


def test_a_frozen_norm_with_statistics_inside_an_adapter_is_refused():
    """R4: it would go on updating."""
    import_torchvision()
    import peft

    layer = peft.tuners.lora.layer.Linear(nn.Linear(6, 6), "default", peft.LoraConfig(), r=2)
    layer.lora_A["default"] = nn.Sequential(layer.lora_A["default"], nn.BatchNorm1d(2))
    model = nn.ModuleDict({"body": layer, "head": nn.Linear(6, 2)})
    with pytest.raises(UnsupportedPlanError, match=r"body\.lora_A\.default\.1"):
        uf.apply(FreezePlan().only("head"), model)
    uf.apply(FreezePlan().only("head | adapter"), model)
    uf.apply(FreezePlan().only("head").with_norm_stats("update"), model)


def test_prompts_beside_the_model_are_not_silently_left_out(make_encoder):
    """R5: prompt learning keeps its parameters on the wrapper, beside the model."""
    import peft

    config = peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2)
    model = peft.get_peft_model(make_encoder(), config)
    with pytest.raises(UnsupportedPlanError, match="holds parameters beside the model"):
        uf.apply(FreezePlan().freeze("all"), model)
    uf.apply(FreezePlan().freeze("all"), model.base_model)
    assert [n for n, p in model.named_parameters() if p.requires_grad] == [
        "prompt_encoder.default.embedding.weight"
    ]


# R6: ties and shared memory --------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(9, 6)
        self.middle = nn.Linear(6, 6)
        self.output = nn.Linear(6, 9, bias=False)
        self.output.weight = self.table.weight

    def forward(self, ids):
        return self.output(torch.tanh(self.middle(self.table(ids))))


@pytest.mark.parametrize("name", ["table", "output", "table.weight", "output.weight"])
def test_a_tied_tensor_is_frozen_by_any_of_its_names(name):
    """R6: PyTorch's own listing shows only the first."""
    model = Tied()
    handle = uf.freeze(model, f'path:"{name}"')
    assert not model.table.weight.requires_grad
    assert handle.verify().parameters == 1
    (parameter,) = [p for p in described(model) if p.aliases]
    assert (parameter.path, parameter.aliases) == ("table.weight", ("output.weight",))


def test_two_decisions_for_a_tied_tensor_are_refused_and_cured_by_a_rule_on_tied():
    """R6"""
    plan = FreezePlan().freeze("table | middle.weight").train("output | middle.bias")
    with pytest.raises(TieConflictError, match=r"table\.weight and output\.weight are one tensor"):
        plan.resolve(Tied())
    frozen = plan.freeze("tied").resolve(Tied())
    assert set(frozen.frozen_paths) == {"table.weight", "middle.weight"}
    trained = plan.train("tied").resolve(Tied())
    assert set(trained.frozen_paths) == {"middle.weight"}


def test_a_tie_that_a_load_has_cut_into_two_objects_over_one_memory_is_seen():
    """R6: `load_state_dict(assign=True)` makes two parameters of one."""
    model = Tied()
    handle = uf.freeze(model, "table")
    model.load_state_dict(model.state_dict(), assign=True)
    assert model.table.weight is not model.output.weight
    assert model.table.weight.data_ptr() == model.output.weight.data_ptr()
    with pytest.raises(FrozenDriftError, match=r"table\.weight: replaced"):
        handle.verify()
    with pytest.raises(TieConflictError, match="share memory"):
        uf.apply(FreezePlan().freeze("table").train("output"), model)
    again = uf.freeze(model, "table | output")
    assert not model.output.weight.requires_grad
    again.verify()


def test_a_tie_that_a_load_has_cut_altogether_is_two_parameters():
    """R6"""
    model = Tied()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    uf.apply(FreezePlan().freeze("table").train("output"), model)
    assert not model.table.weight.requires_grad
    assert model.output.weight.requires_grad


def test_a_tie_survives_a_deep_copy():
    """R6"""
    model = copy.deepcopy(Tied())
    uf.freeze(model, "output")
    assert not model.table.weight.requires_grad


class Pair(nn.Module):
    def __init__(self, one, other):
        super().__init__()
        self.one, self.other = nn.Parameter(one), nn.Parameter(other)


def base():
    return torch.zeros(4, 4)


SHARING = {
    "a view of rows": (lambda t: (t[:2], t), True),
    "an alias": (lambda t: (t.detach(), t), True),
    "a transposed view": (lambda t: (t.t(), t[3]), True),
    "a column and the rows it runs through": (lambda t: (t[:, :1], t[2:]), True),
    "every second value": (lambda t: (t.reshape(-1)[::2], t[3]), True),
    "halves": (lambda t: (t[:2], t[2:]), False),
    "neighbouring values": (lambda t: (t.reshape(-1)[3], t.reshape(-1)[4]), False),
    "an empty view": (lambda t: (t[:0], t), False),
    "copies": (lambda t: (t.clone(), t), False),
}


@pytest.mark.parametrize("views", SHARING)
def test_different_decisions_are_refused_exactly_where_memory_is_shared(views):
    """R6: training the one would move the other."""
    make, shared = SHARING[views]
    model = Pair(*make(base()))
    plan = FreezePlan().freeze("one")
    if shared:
        with pytest.raises(TieConflictError, match="one and other share memory"):
            plan.resolve(model)
        uf.apply(FreezePlan().freeze("all"), model).verify()
    else:
        assert plan.resolve(model).trainable_paths == ("other",)


def test_a_module_in_two_places_answers_to_both_paths():
    """R6"""
    shared = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))
    for path in ("first", "second"):
        model = nn.ModuleDict({"first": shared, "second": shared, "head": nn.Linear(6, 2)})
        handle = uf.freeze(model, path)
        model.train()
        before = bits(model)
        model.second(model.first(rows()))
        assert not moved(model, before)
        assert handle.verify().parameters == 4
        handle.remove()
        assert shared[1].training
        assert "train" not in vars(shared[1])


def test_a_model_that_holds_itself_is_walked_once():
    """R5"""
    model = seeded(Stack)
    plain = names(seeded(Stack))
    model.blocks[0].owner = model
    assert names(model) == plain
    uf.freeze(model, "blocks[0]")
    assert not model.blocks[0].first.weight.requires_grad


def test_a_parameter_of_the_root_itself_is_not_forgotten():
    """R5"""

    class Loose(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(6))
            self.stack = Stack()

        def forward(self, x):
            return self.stack(x * self.scale)

    model = seeded(Loose)
    handle = uf.freeze(model, "scale | stack.stem")
    before = bits(model)
    train(handle, model)
    assert not {"scale", "stack.stem.weight"} & moved(model, before)
    handle.verify()


def test_a_plan_follows_the_live_tree():
    """R12: not a listing made earlier."""
    model = seeded(Stack)
    first = FreezePlan().freeze("blocks").resolve(model)
    model.blocks.append(copy.deepcopy(model.blocks[0]))
    second = FreezePlan().freeze("blocks").resolve(model)
    assert set(second.frozen_paths) - set(first.frozen_paths) == {
        name for name, _ in model.named_parameters() if name.startswith("blocks.2")
    }


# Odd parameters --------------------------------------------------------------------------------


class Odd(nn.Module):
    """A parameter of any kind between two ordinary layers."""

    def __init__(self, tensor, *, trainable=False):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.odd = nn.Parameter(tensor, requires_grad=trainable)
        self.last = nn.Linear(3, 3)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.uint8, torch.bool])
def test_a_parameter_without_gradient_is_left_and_everything_else_is_written(dtype):
    """PyTorch's own `requires_grad_(True)` stops at it, half-way through the model."""
    model = Odd(torch.ones(3, dtype=dtype))
    model.requires_grad_(False)
    with pytest.raises(RuntimeError, match="floating point"):
        model.requires_grad_(True)
    assert not model.last.weight.requires_grad
    model.requires_grad_(False)
    handle = uf.apply(FreezePlan().train("all"), model)
    assert [p.requires_grad for p in model.parameters()].count(False) == 1
    assert not model.odd.requires_grad
    assert any("odd" in notice for notice in handle.resolution.notices)
    handle.verify()
    with uf.frozen(model):
        assert not model.first.weight.requires_grad
    assert model.first.weight.requires_grad


def test_a_rule_that_names_a_parameter_without_gradient_is_refused():
    with pytest.raises(FixedParameterError, match="int64 tensor has no gradient"):
        FreezePlan().freeze("first").train("odd").resolve(Odd(torch.arange(3)))


class Quantised(torch.Tensor):
    """Says it is float32 and stores integers, as quantised tensors of add-on libraries do."""

    @staticmethod
    def __new__(cls, codes, scale):
        return torch.Tensor._make_wrapper_subclass(cls, codes.shape, dtype=torch.float32)

    def __init__(self, codes, scale):
        self.codes, self.scale = codes, scale

    def __tensor_flatten__(self):
        return ["codes", "scale"], None

    @classmethod
    def __tensor_unflatten__(cls, inner, context, size, stride):
        return cls(inner["codes"], inner["scale"])

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
            return cls(args[0].codes, args[0].scale)
        raise NotImplementedError(str(function))


def test_a_tensor_that_stores_integers_cannot_be_trained_and_its_bytes_are_watched():
    model = Odd(Quantised(torch.ones(3, dtype=torch.int8), torch.ones(1)))
    with pytest.raises(FixedParameterError, match="stores quantised integers"):
        FreezePlan().freeze("first").train("odd").resolve(model)
    handle = uf.freeze(model, "first")
    handle.verify()
    model.odd.codes[1] = 2
    with pytest.raises(FrozenDriftError, match="odd: moved"):
        handle.verify()


def test_a_layer_that_has_yet_to_see_a_batch_can_be_frozen_and_trained():
    model = nn.Sequential(nn.LazyLinear(6), nn.LazyBatchNorm1d(), nn.LazyLinear(2))
    handle = uf.freeze(model, 'path:"0" | path:"1"')
    weight = model[0].weight
    assert not weight.requires_grad
    handle.verify()
    model.train()
    model(rows()).sum().backward()
    assert model[0].weight is weight
    assert weight.grad is None
    assert model[2].weight.grad is not None
    with pytest.raises(FrozenDriftError, match=r"0\.weight: cast \(no values to float32\)"):
        handle.verify()
    handle.rebase()
    assert handle.verify().parameters == 4
    handle.remove()
    assert all(p.requires_grad for p in model.parameters())


def test_a_description_follows_a_cast_and_a_first_batch():
    """R12: neither puts a new object anywhere."""
    model = nn.Sequential(nn.LazyLinear(6), nn.Linear(6, 2))
    assert described(model)[0].shape == ()
    model(rows())
    assert described(model)[0].shape == (6, 6)
    assert FreezePlan().freeze("size(> 30)").resolve(model).frozen_paths == ("0.weight",)
    model[1].double()
    assert [p.dtype for p in described(model)] == ["float32"] * 2 + ["float64"] * 2


def normed(which):
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 2))
    return which(model[0]), model


ORIGINALS = {
    "parametrized weight_norm": (
        parametrizations.weight_norm,
        {"0.parametrizations.weight.original0", "0.parametrizations.weight.original1"},
    ),
    "parametrized spectral_norm": (
        parametrizations.spectral_norm,
        {"0.parametrizations.weight.original"},
    ),
    "orthogonal": (parametrizations.orthogonal, {"0.parametrizations.weight.original"}),
    "weight_norm": (old_weight_norm, {"0.weight_g", "0.weight_v"}),
    "prune": (lambda layer: prune.random_unstructured(layer, "weight", 0.5), {"0.weight_orig"}),
}


@pytest.mark.parametrize("way", ORIGINALS)
def test_a_computed_weight_is_frozen_by_freezing_what_it_is_computed_from(way):
    """R5"""
    make, originals = ORIGINALS[way]
    model = seeded(lambda: normed(make)[1])
    handle = uf.freeze(model, 'weight & path:"0"')
    assert set(handle.resolution.frozen_paths) == originals
    train(handle, model)
    handle.verify()
    assert model[0].bias.grad is not None
    layers = {(p.owner, p.kind, p.name.rpartition("/")[0]) for p in described(model)}
    assert layers == {("0", "linear", "net/linear.0"), ("1", "linear", "head/linear.0")}


def test_a_parameter_that_is_no_leaf_is_refused():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 2))
    model[0]._parameters["weight"] = nn.Parameter(torch.ones(6, 6)) * 2
    with pytest.raises(UnsupportedPlanError, match=r"0\.weight: it is computed"):
        uf.freeze(model, 'path:"1"')


def test_what_was_made_in_inference_mode_can_be_frozen_and_given_back():
    with torch.inference_mode():
        body = nn.Linear(6, 6)
    model = nn.Sequential(body, nn.Linear(6, 2))
    handle = uf.freeze(model, 'path:"0"')
    train(handle, model)
    handle.verify()
    handle.remove()
    assert body.weight.requires_grad


def test_training_what_was_made_frozen_in_inference_mode_is_refused():
    with torch.inference_mode():
        body = nn.Linear(6, 6).requires_grad_(False)
    model = nn.Sequential(body, nn.Linear(6, 2))
    with pytest.raises(UnsupportedPlanError, match="made in inference mode"):
        uf.apply(FreezePlan().freeze('path:"1"').train('path:"0"'), model)
    assert model[1].weight.requires_grad


# R10: reentrant checkpointing above a frozen prefix ----------------------------------------------


@pytest.fixture(scope="module")
def make_encoder():
    """A function that builds a small text encoder with a head."""
    import_torchvision()
    import transformers

    config = transformers.BertConfig(
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=8,
        vocab_size=20,
        max_position_embeddings=8,
    )
    return lambda: seeded(transformers.BertForSequenceClassification, config)


def starved(model, handle):
    """Trainable parameters that one backward pass gives no gradient."""
    model.train()
    model(torch.arange(4)[None]).logits.square().sum().backward()
    return {finding.subject for finding in handle.check_gradients()}


REENTRANT = {"use_reentrant": True}


def test_reentrant_checkpointing_above_frozen_embeddings_is_refused(make_encoder):
    """R10: no layer would get a gradient, and the loss would look normal."""
    model = make_encoder()
    model.gradient_checkpointing_enable(REENTRANT)
    with pytest.raises(UnsupportedPlanError, match="checkpoint with use_reentrant=False"):
        uf.freeze(model, "embeddings")
    assert all(p.requires_grad for p in model.parameters())


def test_the_default_of_transformers_4_is_known_to_be_reentrant(make_encoder):
    """R10"""
    model = make_encoder()
    model.gradient_checkpointing_enable()
    if version("transformers").startswith("4."):
        with pytest.raises(UnsupportedPlanError, match="reentrant"):
            uf.freeze(model, "embeddings")
    else:
        assert starved(model, uf.freeze(model, "embeddings")) == set()


@pytest.mark.parametrize(
    "cure", ["not reentrant", "inputs require gradient", "switched off", "prefix trains"]
)
def test_checkpointing_is_accepted_wherever_gradients_arrive(cure, make_encoder):
    """R10"""
    model = make_encoder()
    model.gradient_checkpointing_enable({"use_reentrant": cure != "not reentrant"})
    plan = FreezePlan().freeze("embeddings")
    if cure == "inputs require gradient":
        model.enable_input_require_grads()
    if cure == "switched off":
        model.gradient_checkpointing_disable()
    if cure == "prefix trains":
        plan = FreezePlan().freeze("blocks[0]")
    handle = uf.apply(plan, model)
    assert starved(model, handle) == set()


def test_the_hook_for_inputs_counts_only_while_it_is_there(make_encoder):
    """R10"""
    model = make_encoder()
    model.gradient_checkpointing_enable(REENTRANT)
    model.enable_input_require_grads()
    model.disable_input_require_grads()
    with pytest.raises(UnsupportedPlanError, match="reentrant"):
        uf.freeze(model, "embeddings")


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_checkpointing_switched_on_after_the_plan_shows_in_the_gradients(make_encoder):
    """R10: too late to refuse, so the look at the gradients names every layer."""
    model = make_encoder()
    handle = uf.freeze(model, "embeddings")
    model.gradient_checkpointing_enable(REENTRANT)
    expected = {name for name, _ in model.named_parameters() if ".encoder.layer." in name}
    assert starved(model, handle) == expected


@pytest.mark.parametrize("implementation", CheckpointImpl)
def test_a_reentrant_checkpoint_wrapper_above_a_frozen_prefix_is_refused(implementation):
    """R10"""
    model = seeded(Stack)
    model.blocks[1] = checkpoint_wrapper(model.blocks[1], checkpoint_impl=implementation)
    if implementation is CheckpointImpl.REENTRANT:
        with pytest.raises(UnsupportedPlanError, match=r"blocks\.1: reentrant"):
            uf.freeze(model, "stem | blocks[0]")
        uf.freeze(model, "stem")  # the first block trains, so gradients arrive
    else:
        handle = uf.freeze(model, "stem | blocks[0]")
        backward(model)
        assert handle.check_gradients() == ()


# Models without values -------------------------------------------------------------------------


def test_a_model_on_the_meta_device_takes_the_plan_of_the_real_one():
    """R12"""
    with torch.device("meta"):
        model = Stack()
    plan = FreezePlan().only("head | blocks[-1:]").freeze("norm")
    handle = uf.apply(plan, model)
    assert handle.resolution.frozen_paths == plan.resolve(Stack()).frozen_paths
    assert not model.stem.weight.requires_grad
    assert str(handle) == str(uf.apply(plan, Stack()))
    handle.verify()


def test_a_meta_model_that_gets_its_values_is_taken_in_by_reapply():
    """R12: materialising puts new parameters in."""
    with torch.device("meta"):
        model = Stack()
    handle = uf.freeze(model, "blocks")
    model.to_empty(device="cpu")
    model.load_state_dict(seeded(Stack).state_dict())
    with pytest.raises(FrozenDriftError, match="replaced"):
        handle.verify()
    handle.reapply()
    handle.rebase()
    before = bits(model)
    train(handle, model)
    assert not any(name.startswith("blocks") for name in moved(model, before))
    handle.verify()


# R3: fingerprints ------------------------------------------------------------------------------


def ones(dtype):
    return torch.arange(1, 7).float().to(dtype)


TENSORS = {
    "float32": ones(torch.float32),
    "float64": ones(torch.float64),
    "bfloat16": ones(torch.bfloat16),
    "float16": ones(torch.float16),
    "float8_e4m3fn": ones(torch.float8_e4m3fn),
    "float8_e5m2": ones(torch.float8_e5m2),
    "float8_e8m0fnu": ones(torch.float8_e8m0fnu),
    "complex64": ones(torch.complex64),
    "no axis": torch.tensor(1.5),
    "transposed": ones(torch.float32).reshape(2, 3).t(),
    "channels last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    "every second": ones(torch.float32)[::2],
    "conjugated": ones(torch.complex64).conj(),
    "negated": ones(torch.complex64).conj().imag,
    "sparse": torch.eye(3).to_sparse(),
    "not a number": torch.full((3,), torch.nan),
}


@pytest.mark.parametrize("kind", TENSORS)
@pytest.mark.parametrize("keep_values", [False, True], ids=["bound", "exact"])
def test_a_tensor_of_any_kind_is_seen_to_hold_and_seen_to_move(kind, keep_values):
    """R3"""
    tensor = TENSORS[kind]
    plan = FreezePlan().freeze("odd")
    model = Odd(tensor, trainable=True)
    handle = uf.apply(plan, model, keep_values=keep_values)
    assert handle.verify().parameters == 1
    if kind != "sparse":  # PyTorch cannot copy such a parameter
        prints = [backend.fingerprint(m, ["odd"])["odd"] for m in (model, copy.deepcopy(model))]
        assert prints[0].bits == prints[1].bits
    other = torch.zeros(tensor.shape) if tensor.dim() else torch.tensor(9.0)
    model.odd.data = other.to(tensor.dtype) if kind != "sparse" else other.to_sparse()
    with pytest.raises(FrozenDriftError, match="odd: moved"):
        handle.verify()


CHANGES = {
    "the sign of a zero": (torch.zeros(4), lambda p: p.data.neg_()),
    "one lowest bit": (torch.ones(4), lambda p: p.data[2:3].view(torch.int32).add_(1)),
    "another nan": (torch.full((4,), torch.nan), lambda p: p.data[:1].view(torch.int32).add_(1)),
    "two values swapped": (torch.arange(4.0), lambda p: p.data.copy_(p.data[[1, 0, 2, 3]])),
    "two values changed alike": (torch.ones(4), lambda p: p.data[:2].mul_(2)),
    "a uniform decay": (torch.ones(64), lambda p: p.data.mul_(0.99)),
    "nothing but the shape": (torch.ones(4), lambda p: setattr(p, "data", p.data.view(2, 2))),
    "a write past autograd": (torch.ones(4), lambda p: p.data.numpy().__setitem__(0, 2.0)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_bits_is_seen(change):
    """R3: by none of these do `_version`, `torch.hash_tensor` and `torch.equal` all stumble."""
    values, write = CHANGES[change]
    model = Odd(values.clone(), trainable=True)
    handle = uf.freeze(model, "odd")
    write(model.odd)
    with pytest.raises(FrozenDriftError, match=r"odd: (?:moved|resized)"):
        handle.verify()


def test_a_value_that_is_not_a_number_is_no_false_alarm():
    """R3: `torch.equal` says that it differs from itself."""
    model = Odd(torch.tensor([torch.nan, torch.inf, -0.0]), trainable=True)
    assert uf.freeze(model, "odd").verify().parameters == 1


def test_a_fused_optimizer_is_seen_where_the_version_counter_is_not_raised():
    """R3, R11"""
    model = seeded(Stack)
    handle = uf.freeze(model, "stem")
    weight = model.stem.weight
    version = weight._version
    weight.grad = torch.ones_like(weight)
    torch.optim.AdamW([weight], 0.1, fused=True).step()
    assert weight._version == version
    with pytest.raises(FrozenDriftError, match=r"stem\.weight: moved"):
        handle.verify()
