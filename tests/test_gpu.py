"""The same promises on a GPU. Skipped, with the reason, where a framework sees none.

`--device cpu` runs them on the CPU in its place, and `--framework torch` those of PyTorch alone, as
`ci/gpu.sh` does where there is no Paddle.
"""

import copy

import numpy as np
import pytest

import unifreeze as uf
from unifreeze._evidence import compare_records, make_record
from unifreeze._protocol import ProbeConfig
from unifreeze.testing import CONTRACT, Example, Kit

pytestmark = pytest.mark.gpu


@pytest.fixture
def device(request):
    return request.config.getoption("--device")


@pytest.fixture
def gpu_kit(kit, device):
    """The contract's models, built on the GPU, or on what stands in its place."""
    backend = kit.backend
    if device not in backend.capabilities.devices:
        pytest.skip(f"{backend.name} sees no GPU here")

    def on_gpu(example):
        return Example(lambda: backend.place(example.make(), device), example.batch)

    return Kit(backend, on_gpu(kit.plain), on_gpu(kit.tied), on_gpu(kit.loose))


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_backend_passes_on_a_gpu(check, gpu_kit):
    check(gpu_kit)


@pytest.mark.parametrize(
    "plan",
    [
        uf.FreezePlan().only("head"),
        uf.FreezePlan().freeze("norm & bias"),
        uf.FreezePlan().freeze("blocks[:50%]").with_norm_stats("hold_all"),
    ],
    ids=["head", "half a norm", "first half"],
)
def test_a_plan_on_a_gpu_has_parity_with_the_cpu(plan, gpu_kit, kit, device):
    records = [
        make_record(plan, one.plain.make(), one.backend, ProbeConfig(one.plain.batch),
                    device=where, name="plain")
        for one, where in ((gpu_kit, device), (kit, "cpu"))
    ]  # fmt: skip
    report = compare_records(*records)
    assert [side.device for side in report.sides] == [device, "cpu"]
    report.raise_if_broken()


def test_moving_a_frozen_model_to_the_gpu_keeps_its_bits(gpu_kit, kit, device):
    model = kit.plain.make()
    handle = uf.freeze(model, "blocks")
    on_gpu = kit.backend.place(model, device)
    assert gpu_kit.backend.device_of(on_gpu) == device
    handle.verify()


def test_a_single_changed_value_is_seen_on_a_gpu(gpu_kit):
    model = gpu_kit.plain.make()
    handle = uf.freeze(model, "blocks[0]")
    path = handle.resolution.frozen_paths[0]
    values = gpu_kit.backend.tensor(model, path)
    values.reshape(-1)[-1] = np.nextafter(values.reshape(-1)[-1], np.float32(np.inf))
    gpu_kit.backend.assign(model, path, values)
    with pytest.raises(uf.FrozenDriftError, match=path):
        handle.verify()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_held_statistics_survive_mixed_precision_training(gpu_kit, device, dtype):
    if gpu_kit.backend.name != "torch":
        pytest.skip(f"the mixed-precision loop here is torch's, not {gpu_kit.backend.name}'s")
    import torch

    kind, precision = {"gpu": "cuda", "cpu": "cpu"}[device], getattr(torch, dtype)
    model = gpu_kit.plain.make()
    handle = uf.freeze(model, "blocks")
    optimizer = handle.optimizer(torch.optim.AdamW, lr=1e-2, weight_decay=0.1, fused=True)
    scaler = torch.amp.GradScaler(kind, enabled=dtype == "float16")
    batch = torch.as_tensor(gpu_kit.plain.batch.args[0], device=kind)
    for _ in range(3):
        model.train()
        with torch.autocast(kind, dtype=precision):
            loss = model(batch).square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    handle.verify()
    copied = copy.deepcopy(model)
    copied.train()
    copied(batch)
    assert torch.equal(copied.blocks[0].norm.running_mean, model.blocks[0].norm.running_mean)
