"""PyTorch: wrappers, distributed models and adapters are seen through, and trained under a plan.

The rules R4, R5, R7, R8 and R11 are those of the opening table of the facts about PyTorch.
"""

from __future__ import annotations

import sys

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

import unifreeze as uf
from examples.torchvision_on_cpu import import_torchvision
from tests.support.kits.torch_nets import Stack, bits, moved, rows, seeded
from tests.support.torch_descriptions import encoder_builder, names, train
from unifreeze import FreezePlan
from unifreeze.errors import FrozenDriftError, UnsupportedPlanError


@pytest.fixture
def one_process(tmp_path, monkeypatch):
    """A process group of one; each leaves another hook that puts the rank before every error."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


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
def test_freezing_after_ddp_has_wrapped_holds_in_training(wrap, one_process):
    """R7: the wrapper's exchange of gradients follows the flags, under every way to give it."""
    model = seeded(Stack)
    wrapped = wrap(model)
    for target, stem in ((wrapped, "stem"), ({"student": wrapped}, "student.stem")):
        handle = uf.freeze(target, stem)
        before = bits(model)
        train(handle, wrapped, 3)
        assert {n for n in before if n not in moved(model, before)} >= {"stem.weight", "stem.bias"}
        handle.verify()
        handle.remove()
        train(uf.apply(FreezePlan().train("all"), model), wrapped, 2)
        assert "stem.weight" in moved(model, before)


def test_freezing_under_a_ddp_that_looks_for_unused_parameters_holds(one_process):
    """R7"""
    model = seeded(Stack)
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    handle = uf.freeze(wrapped, "stem")
    before = bits(model)
    train(handle, wrapped, 3)
    assert "stem.weight" not in moved(model, before)
    assert handle.check_gradients() == ()


def test_what_ddp_has_built_in_for_good_is_refused(one_process):
    """R7"""
    model = seeded(Stack)
    model.stem.requires_grad_(False)
    late = [("head.weight", model.head.weight)]
    DistributedDataParallel(
        model, delay_all_reduce_named_params=late, param_to_hook_all_reduce=model.head.bias
    )
    with pytest.raises(UnsupportedPlanError, match="delay_all_reduce_named_params"):
        uf.freeze(model, "head")
    assert model.head.weight.requires_grad
    uf.apply(FreezePlan().train("all"), model)


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


def test_sharding_after_the_plan_is_taken_in(one_process):
    """R8: `fully_shard` puts new parameters in place of the old."""
    model = seeded(Stack)
    handle = uf.freeze(model, "blocks | stem")
    fully_shard(model)
    assert handle.verify().parameters == len(handle.resolution.frozen_paths)
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


@pytest.fixture(scope="module")
def make_encoder():
    return encoder_builder()
