"""PEFT on PyTorch: the copy of a layer that runs is the layer; copies that do not are left alone.

Whether a tensor is in use is measured: where changing it changes no output, it is not.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from examples.torchvision_on_cpu import import_torchvision
from tests.support.kits.torch_nets import raw
from unifreeze import FreezePlan, load_trained
from unifreeze._protocol import load_backend
from unifreeze.errors import FrozenDriftError, UnmatchedSelectorError, WeightFileError

import_torchvision()
import peft  # noqa: E402 - it imports torchvision, which has to be loaded in a way of its own

BACKEND = load_backend("torch")
WIDTH, WORDS = 64, 20
soft = nn.functional.softsign  # unlike tanh it never rounds to one


class Tail(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn, self.linear = nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return self.linear(self.bn(x))


class Net(nn.Module):
    """A table, two blocks of linear layers, a norm, a tail of its own and a classifier."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.query, self.value = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.norm, self.tail = nn.LayerNorm(WIDTH), Tail()
        self.classifier = nn.Linear(WIDTH, 3)

    def forward(self, ids):
        x = soft(self.value(soft(self.query(self.embed(ids)))))
        return self.classifier(soft(self.tail(self.norm(x.mean(1)))))


IDS = torch.arange(24).reshape(6, 4) % WORDS


def adapted(*, saved=("tail", "classifier"), config=None, **settings):
    torch.manual_seed(0)
    if config is None:
        settings = {"r": 2, "target_modules": ["query", "value"], **settings}
        config = peft.LoraConfig(modules_to_save=list(saved), **settings)
    return peft.get_peft_model(Net(), config)


def described(model):
    """Parameters that a description has, by identity."""
    live = BACKEND.objects(model)
    return {id(live[p.path]): p for p in BACKEND.describe(model).parameters}


def unused(model):
    """Paths of what a description lists as in no use."""
    return [row.path for row in BACKEND.describe(model).tree.unused]


def set_aside(model):
    """Names of parameters that are in no count: what the framework lists less what is described."""
    known = described(model)
    return {name for name, tensor in model.named_parameters() if id(tensor) not in known}


def dead(model):
    """Names of parameters that can be changed without any change of the output.

    They are drawn anew first: adapters begin as nothing, so that some of them change nothing yet.
    """
    generator = torch.Generator().manual_seed(1)
    found = set()
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        before = model(IDS)
        for name, parameter in model.named_parameters():
            kept = parameter.clone()
            parameter.add_(torch.randn(parameter.shape, generator=generator))
            if torch.equal(model(IDS), before):
                found.add(name)
            parameter.copy_(kept)
        assert torch.equal(model(IDS), before)
    return found


def flags(model):
    return {name: parameter.requires_grad for name, parameter in model.named_parameters()}


# Every sort of adapter ----------------------------------------------------------------------------

TARGETS = (
    {"target_modules": ["query", "value"]},
    {"target_modules": ["query", "value"], "r": 2},
    {"target_modules": ["query", "value"], "r": 2, "n_tasks": 1, "n_skills": 2, "n_splits": 1},
    {"target_modules": ["query", "value"], "total_step": 9},
    {"target_modules": ["query", "value"], "block_size": 8},
    {"target_modules": ["query", "value"], "feedforward_modules": []},
    {"target_modules": ["query", "value"], "n_frequency": 16},
    {"target_modules": ["query", "value"], "num_vectors": 8, "vector_length": 8, "topk": 2},
    {"target_modules": ["embed"], "token_indices": [1, 2]},
    {"target_modules": ["norm"]},
)
BESIDE_A_LANGUAGE_MODEL = {
    "ADAPTION_PROMPT", "CARTRIDGE", "CPT", "MULTITASK_PROMPT_TUNING", "PREFIX_TUNING",
    "PROMPT_TUNING", "P_TUNING", "SHADOW", "XLORA",
}  # fmt: skip
"""Adapters that need a language model of transformers, not just layers: prompts and kin."""
SUPERSEDED = {"FROD": {"query.base_layer.weight", "value.base_layer.weight"}}
"""Weights that an adapter has taken apart, and that nothing reads while it drops nothing out."""


def name_task(model):
    """Tell the layers of a sort of adapter that has several tasks that it is always the first."""

    def first(_layer, args, named):
        return args, {**named, "task_ids": torch.zeros(6).long()}

    for module in model.modules():
        if type(module).__module__.startswith("peft.tuners.poly.layer"):
            module.register_forward_pre_hook(first, with_kwargs=True)


def of_every_sort(kind, config):
    """Build the net with every setting of a sort of adapter that it takes."""
    for settings in TARGETS:
        for more in ({"modules_to_save": ["tail", "classifier"]}, {}):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    model = peft.get_peft_model(Net(), config(**settings, **more))
                    if kind == "POLY":
                        name_task(model)
                    model(IDS)
            except (TypeError, ValueError, KeyError, RuntimeError, AttributeError):
                continue
            yield model


SORTS = {kind.value: config for kind, config in peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING.items()}


@pytest.mark.parametrize("kind", sorted(set(SORTS) - BESIDE_A_LANGUAGE_MODEL))
def test_exactly_what_is_in_no_use_is_set_aside(kind):
    """Listed from the library's own table of adapters, each built and run."""
    count = 0
    for model in of_every_sort(kind, SORTS[kind]):
        count += 1
        aside, nothing = set_aside(model), dead(model)
        superseded = {n for n in nothing for end in SUPERSEDED.get(kind, ()) if n.endswith(end)}
        assert aside == nothing - superseded
    assert count, "it is built in no way"


def test_a_weight_that_an_adapter_has_superseded_is_named_by_its_missing_gradient():
    model = next(of_every_sort("FROD", SORTS["FROD"]))
    handle = FreezePlan().train("all").apply(model)
    model.train()
    model(IDS).square().sum().backward()
    assert {finding.subject for finding in handle.check_gradients()} == {
        "query.weight",
        "value.weight",
    }


def test_only_adapters_beside_a_language_model_are_left_out():
    for kind in BESIDE_A_LANGUAGE_MODEL & set(SORTS):
        assert not list(of_every_sort(kind, SORTS[kind])), f"{kind} can be tried after all"


# The copy that runs is the layer ------------------------------------------------------------------


def test_the_running_copy_is_described_as_the_layer_itself():
    """Names, kinds and places are those of the bare network; what is added are adapters."""
    bare = {p.path: p for p in BACKEND.describe(Net()).parameters}
    wrapped = {p.path: p for p in BACKEND.describe(adapted()).parameters}
    added = {path: wrapped.pop(path).kind for path in set(wrapped) - set(bare)}
    assert set(added.values()) == {"adapter"}
    assert all("lora_" in path for path in added)
    assert {p: (row.name, row.kind, row.role) for p, row in wrapped.items()} == {
        p: (row.name, row.kind, row.role) for p, row in bare.items()
    }


def test_the_plan_for_adapters_trains_the_head_that_runs():
    model = adapted()
    trained_by_peft = {name for name, flag in flags(model).items() if flag}
    handle = FreezePlan.load("examples/recipes/adapters.yaml").apply(model)
    assert {name for name, flag in flags(model).items() if flag} == trained_by_peft
    values = sum(p.numel() for n, p in model.named_parameters() if n in trained_by_peft)
    total = sum(p.numel() for n, p in model.named_parameters() if "original_module" not in n)
    assert handle.resolution.counts() == (values, total)
    model.train()
    model(IDS).square().sum().backward()
    assert handle.check_gradients() == ()


@pytest.mark.parametrize("words", ["classifier", "head", "linear", 'type:"Linear"', "classifier.*"])
def test_words_for_the_layer_take_the_copy_that_runs(words):
    model = adapted()
    FreezePlan().only(words).apply(model)
    taken = {name for name, flag in flags(model).items() if flag}
    assert "base_model.model.classifier.modules_to_save.default.weight" in taken
    assert not any("original_module" in name for name in taken)


def test_the_word_adapter_takes_what_the_library_trains():
    model = adapted()
    expected = flags(model)
    FreezePlan().only("adapter").apply(model)
    assert flags(model) == expected


def test_copies_that_do_not_run_are_told_of():
    notes = "\n".join(FreezePlan().only("head").resolve(adapted()).notices)
    assert "6 parameters belong to copies of layers that do not run" in notes
    assert "classifier.original_module.weight" in notes
    assert "copies" not in "\n".join(FreezePlan().only("head").resolve(Net()).notices)


def test_no_rule_names_a_copy_that_does_not_run():
    model = adapted()
    with pytest.raises(UnmatchedSelectorError):
        FreezePlan().freeze("classifier.original_module.weight").apply(model)
    assert unused(model) == [
        "tail.original_module.bn.weight",
        "tail.original_module.bn.bias",
        "tail.original_module.linear.weight",
        "tail.original_module.linear.bias",
        "classifier.original_module.weight",
        "classifier.original_module.bias",
    ]


@pytest.mark.parametrize("found", [True, False])
@pytest.mark.parametrize("plan", [FreezePlan().train("all"), FreezePlan().freeze("all")], ids=str)
def test_the_flags_of_copies_that_do_not_run_stay_as_found(plan, found):
    model = adapted()
    copies = [p for n, p in model.named_parameters() if "original_module" in n]
    for parameter in copies:
        parameter.requires_grad = found
    handle = plan.apply(model)
    assert {p.requires_grad for p in copies} == {found}
    handle.remove()
    assert {p.requires_grad for p in copies} == {found}


def test_statistics_of_the_copy_that_runs_hold_still():
    model = adapted()
    handle = FreezePlan().only("classifier").apply(model)
    buffers = {name: raw(tensor) for name, tensor in model.named_buffers()}
    model.train()
    model(IDS).square().sum().backward()
    assert {name: raw(tensor) for name, tensor in model.named_buffers()} == buffers
    assert handle.verify().states == 3
    handle.remove()
    model.train()
    model(IDS)
    moved = {n for n, tensor in model.named_buffers() if raw(tensor) != buffers[n]}
    assert moved
    assert all("modules_to_save" in name for name in moved)


def test_an_optimizer_over_everything_moves_no_copy_that_does_not_run():
    model = adapted()
    handle = FreezePlan().only("adapter | head").apply(model)
    kept = {n: raw(p) for n, p in model.named_parameters() if "original_module" in n}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    handle.check_optimizer(optimizer)
    for _ in range(2):
        model.train()
        model(IDS).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert {n: raw(p) for n, p in model.named_parameters() if n in kept} == kept
    handle.verify()


# Which copy runs ----------------------------------------------------------------------------------


def two_adapters():
    model = adapted()
    model.add_adapter(
        "second", peft.LoraConfig(r=3, target_modules=["query"], modules_to_save=["classifier"])
    )
    return model


STATES = {
    "the first": lambda m: m.set_adapter("default"),
    "the second": lambda m: m.set_adapter("second"),
    "none": lambda m: m.base_model.disable_adapter_layers(),
    "none, then all": lambda m: (
        m.base_model.disable_adapter_layers(),
        m.base_model.enable_adapter_layers(),
    ),
    "merged": lambda m: m.merge_adapter(),
}


@pytest.mark.parametrize("choose", STATES.values(), ids=STATES)
def test_of_several_adapters_what_runs_is_described(choose):
    model = two_adapters()
    before = set_aside(model)
    choose(model)
    aside = set_aside(model)
    assert aside == dead(model)
    if choose in (STATES["the second"], STATES["none"]):
        assert aside != before


def test_with_none_active_the_layer_itself_is_the_layer():
    model = two_adapters()
    model.base_model.disable_adapter_layers()
    paths = {p.path for p in BACKEND.describe(model).parameters}
    assert paths == {p.path for p in BACKEND.describe(Net()).parameters}
    live = BACKEND.objects(model)
    assert live["classifier.weight"] is model.base_model.model.classifier.original_module.weight


def test_another_adapter_made_active_under_a_plan_is_told_and_can_be_taken_in():
    model = two_adapters()
    handle = FreezePlan().only("adapter | head - norm").apply(model)
    handle.verify()
    model.set_adapter("second")
    with pytest.raises(FrozenDriftError, match=r"reapply"):
        handle.verify()
    handle.reapply()
    taken = {name for name, flag in flags(model).items() if flag}
    assert taken
    # The second adapter saves no tail, so that the tail itself is in use, and in the head.
    assert all("second" in name or "tail.original_module" in name for name in taken)
    model.train()
    model(IDS).square().sum().backward()
    assert handle.check_gradients() == ()


def test_an_adapter_added_under_a_plan_is_noticed():
    """It is added deep inside a wrapper, and changes nothing that the wrapper itself holds."""
    model = adapted()
    FreezePlan().only("adapter | head").apply(model)
    model.add_adapter("second", peft.LoraConfig(r=3, target_modules=["query"]))
    listed = {id(tensor) for tensor in model.parameters()}
    aside = {n for n, _ in model.named_parameters() if n in set_aside(model)}
    assert (
        set(described(model))
        | {id(tensor) for name, tensor in model.named_parameters() if name in aside}
        == listed
    )
    assert {name for name in aside if "lora" in name} == {
        "base_model.model.query.lora_A.second.weight",
        "base_model.model.query.lora_B.second.weight",
    }


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.query = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(soft(self.query(self.embed(ids))))


def test_a_copy_of_a_tied_layer_is_a_tensor_of_its_own():
    """The layer that does not run holds the table, which is in use elsewhere."""
    config = peft.LoraConfig(r=2, target_modules=["query"], modules_to_save=["head"])
    model = peft.get_peft_model(Tied(), config)
    spec = BACKEND.describe(model)
    assert spec.tree.unused == []
    assert not any(parameter.aliases for parameter in spec.parameters)
    FreezePlan().only('path:"head"').apply(model)
    assert {name for name, flag in flags(model).items() if flag} == {
        "base_model.model.head.modules_to_save.default.weight"
    }


def test_tokens_that_train_are_an_adapter_of_their_table():
    config = peft.LoraConfig(r=2, target_modules=["query"], trainable_token_indices={"embed": [1]})
    model = peft.get_peft_model(Net(), config)
    rows = {p.path: (p.name, p.kind) for p in BACKEND.describe(model).parameters}
    plain = {p.path: (p.name, p.kind) for p in BACKEND.describe(Net()).parameters}
    added = {path: rows.pop(path) for path in set(rows) - set(plain)}
    assert rows == plain
    assert [kind for _, kind in added.values()] == ["adapter"] * 3
    assert set_aside(model) == set()


@pytest.mark.parametrize("whole", [False, True], ids=["norms", "everything that it takes"])
def test_a_norm_tuned_in_the_place_of_another_is_a_norm(whole):
    targets = ["norm", "query"] if whole else ["norm"]
    model = adapted(config=peft.LNTuningConfig(target_modules=targets))
    handle = FreezePlan().only("norm & neck | norm").apply(model)
    taken = {name for name, flag in flags(model).items() if flag}
    assert "base_model.model.norm.ln_tuning_layers.default.weight" in taken
    assert not any("base_layer" in name for name in taken)
    model.train()
    model(IDS).square().sum().backward()
    assert handle.check_gradients() == ()


def test_trained_adapters_that_are_switched_off_are_said_to_be(tmp_path):
    model, file = adapted(), tmp_path / "adapters.safetensors"
    FreezePlan().only("adapter").apply(model).save_trained(file)
    for off in (model.disable_adapter, lambda: merged(model)):
        with off(), pytest.raises(WeightFileError, match="is switched off, or merged, now") as told:
            load_trained(model, file)
        assert "model.disable_adapter()" in told.value.hint
    assert load_trained(model, file)


@contextmanager
def merged(model):
    model.merge_adapter()
    yield
    model.unmerge_adapter()
