"""What runs on a GPU gives what the processor gives, and survives a lack of memory.

Convolutions in float32 are computed in TensorFloat-32 there, so results agree to about
three digits.
"""

import json
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from napari_volseg.automatic import training_cost
from napari_volseg.batching import try_steps
from napari_volseg.checkpoint import load_model, model_metadata, save_model
from napari_volseg.checkpoint_folder import load_checkpoint
from napari_volseg.config import InferenceConfig, apply_overrides, build_config
from napari_volseg.devices import Compute
from napari_volseg.distributed import join_by_file, leave
from napari_volseg.events import Started
from napari_volseg.forms import Form, list_forms
from napari_volseg.formtrials import try_forms
from napari_volseg.forward import Forward
from napari_volseg.io import write_hdf5
from napari_volseg.learner import Learner
from napari_volseg.mapjob import prepare_maps
from napari_volseg.mapping import predict_maps
from napari_volseg.networks import build_network, plan_pyramid
from napari_volseg.planning import plan_training
from napari_volseg.runs import Control, TrainingPair
from napari_volseg.sampling import Batch
from napari_volseg.speed import measure_speed
from napari_volseg.training import train
from napari_volseg.volume import Volume

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]

PATCH = (8, 16, 16)
NM = (40.0, 10.0, 10.0)
PRECISIONS = ("32", "bf16-mixed", "16-mixed")


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch, tmp_path):
    """Keep what is remembered of this machine out of the tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def make_plan(tiny_config, make_cells):
    """Return a function that plans a training, and its volumes."""
    pairs = [TrainingPair(make_cells((12, 64, 64)), None)]

    def make(*overrides):
        tree = apply_overrides(
            tiny_config.model_dump(mode="json"), ["system.device=cuda", *overrides]
        )
        return plan_training(build_config(tree), pairs), pairs

    return make


@pytest.fixture
def short_of_memory():
    """Return a function that leaves this process some of the GPU, until the end."""

    def limit(n_bytes):
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(n_bytes / total)

    yield limit
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.fixture
def model_path(tiny_config, tmp_path):
    path = tmp_path / "model.safetensors"
    torch.manual_seed(0)
    pyramid = plan_pyramid(tiny_config.model, NM, PATCH)
    network = build_network(tiny_config.model, 1, pyramid)
    metadata = model_metadata(tiny_config, pyramid, 1, NM, PATCH, 1, {})
    save_model(path, network.state_dict(), metadata)
    return path


@pytest.fixture
def predict_on(model_path, rng, tmp_path):
    """Return a function that predicts the same image on a device."""
    image = Volume(rng.integers(0, 255, (20, 70, 85), np.uint8), NM, "em")

    def predict(device, **settings):
        folder = tmp_path / f"on-{device}"
        folder.mkdir()
        job = prepare_maps(
            model_path,
            load_model(model_path),
            image,
            folder,
            inference=InferenceConfig(**settings),
            device=device,
            block=(8, 32, 32),
        )
        for tile in job.tiles(10**9):
            list(predict_maps(job, tile))
        return job, job.maps[...].astype(int)

    return predict


def _random_batch(size, patch=PATCH):
    targets = torch.rand(size, 3, *patch)
    return Batch(torch.rand(size, 1, *patch), targets, targets > 0.1)


def test_steps_on_a_gpu_follow_those_on_the_processor(make_plan):
    torch.manual_seed(0)
    steps = [[_random_batch(2)] for _ in range(4)]
    losses = []
    for device in ("cpu", "cuda"):
        plan, _ = make_plan(f"system.device={device}")
        learner = Learner(plan)
        losses.append([learner.learn(step)[1] for step in steps])
        assert next(learner.network.parameters()).device.type == device
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.02)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_resumed_training_goes_on_where_it_stopped(make_plan, tmp_path, precision):
    plan, pairs = make_plan(
        f"optimization.precision={precision}", "optimization.ema_decay=0.9"
    )
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    list(train(plan, pairs, whole))
    asked = []

    def stop_at_two():
        asked.append(0)
        return Control(stop=len(asked) > 2)

    stopped = list(train(plan, pairs, parts, read_control=stop_at_two))
    assert stopped[-1].reason == "stopped"
    resumed = list(train(plan, pairs, parts, resume=True))
    assert isinstance(resumed[0], Started)
    assert (resumed[0].step, resumed[-1].reason) == (2, "completed")
    first, second = (load_checkpoint(f / "checkpoints") for f in (whole, parts))
    assert first["scaler"] == second["scaler"]
    apart = sum(
        (first["network"][k].float() - second["network"][k].float()).abs().sum()
        for k in first["network"]
    )
    size = sum(w.float().abs().sum() for w in first["network"].values())
    assert apart / size < 1e-3  # some kernels add in no fixed order


def test_a_step_without_the_memory_for_it_is_done_in_parts(make_plan, short_of_memory):
    plan, _ = make_plan(
        "system.training.batch_size=8",
        "data.patch_size=[16,64,64]",
        "data.pad_size=[0,0,0]",
        "model.filters=[16,32]",
        "model.rsunet_norm=group",
    )
    batch = _random_batch(8, (16, 64, 64))
    torch.cuda.reset_peak_memory_stats()
    with_room = Learner(plan)
    expected = with_room.learn([batch])
    assert with_room.record.parts_per_batch == 1
    peak = torch.cuda.max_memory_reserved()
    del with_room
    short_of_memory(0.7 * peak)
    short = Learner(plan)
    loss = short.learn([batch])
    assert short.record.parts_per_batch in (2, 4)
    assert "Memory ran out" in short.take_news()[0]
    np.testing.assert_allclose(loss[0], expected[0], rtol=0.01)


def test_the_trial_of_the_batch_size_runs_on_the_gpu(make_plan):
    plan, _ = make_plan("system.training.batch_size=auto")
    assert try_steps(plan) == {"parts": 1}


@pytest.mark.parametrize("flips", ["none", "zyx"])
def test_maps_of_a_gpu_are_those_of_the_processor(predict_on, flips):
    _, expected = predict_on("cpu", flips=flips)
    job, maps = predict_on("cuda", flips=flips)
    assert job.forward.compute.device == "cuda"
    assert expected.std() > 1
    assert abs(maps - expected).max() <= 2


@pytest.mark.slow
def test_every_form_on_a_gpu_gives_the_same_maps(model_path):
    forms = list_forms(Form(Compute("cuda", "bf16", True)), "auto", exact=False)
    assert {form.engine for form in forms} == {"eager", "compiled"}
    batches = list(torch.rand(2, 2, 1, *PATCH))
    trials = list(try_forms(load_model(model_path).network, forms, batches))
    assert [t.form for t in trials if not t.agrees] == []
    assert len(trials) == len(forms)


def test_windows_are_passed_in_parts_where_memory_is_short(short_of_memory):
    class Hungry(nn.Module):
        def forward(self, x):
            return (x.repeat(1, 64, 1, 1, 1).cos()[:, :3],)

    windows = np.random.default_rng(0).random((8, 1, 32, 64, 64), np.float32)
    form = Form(Compute("cuda", "32", False))
    expected = Forward(Hungry().cuda(), form, batch_size=8)(windows).cpu()
    short_of_memory(0.7 * torch.cuda.max_memory_reserved())
    forward = Forward(Hungry().cuda(), form, batch_size=8)
    assert torch.equal(forward(windows).cpu(), expected)
    assert forward.batch_size in (2, 4)


def test_a_group_adds_up_by_nccl(tmp_path):
    """Of one process, as there may be but one GPU."""
    join_by_file(0, 1, tmp_path / "meeting", "cuda")
    try:
        tensor = torch.full((3,), 2.0, device="cuda")
        torch.distributed.all_reduce(tensor)
        assert tensor.tolist() == [2, 2, 2]
        flag = torch.tensor([1])
        torch.distributed.all_reduce(flag)  # by gloo: orders are on the processor
        assert flag.tolist() == [1]
    finally:
        leave()


def test_the_commands_train_and_predict_on_a_gpu(make_cells, tmp_path):
    cells = make_cells((16, 64, 64))
    source = tmp_path / "cells.h5"
    write_hdf5(source, {"raw": cells.image.read()[0], "labels": cells.labels_ZYX}, NM)
    _call(
        *("train", "quick", "--device", "cuda", "--runs", str(tmp_path / "runs")),
        *("--image", f"{source}:raw", "--label", f"{source}:labels"),
        *("optimization.max_epochs=3", "data.iter_num_per_epoch=160"),
        *("data.patch_size=[8,32,32]", "system.training.batch_size=8"),
    )
    (run,) = (tmp_path / "runs").iterdir()
    started = json.loads((run / "events.jsonl").read_text().splitlines()[0])
    assert started["device"].startswith("cuda")
    out = tmp_path / "out.h5"
    _call("predict", str(run), f"{source}:raw", "-o", str(out), "--device", "cuda")
    scores = json.loads(
        _call("evaluate", f"{out}:instances", f"{source}:labels", "--json")
    )
    assert scores["f1_50"] > 0.8


def _call(*words):
    done = subprocess.run(
        [sys.executable, "-m", "napari_volseg", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_plan_of_a_gpu_takes_bfloat16_where_the_gpu_has_it(make_plan):
    plan, _ = make_plan("optimization.precision=auto")
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    assert plan.compute == replace(
        plan.compute, device="cuda", precision="bf16" if has_bf16 else "16"
    )


def test_the_speed_that_is_measured_is_that_of_a_training():
    config = build_config(
        {
            "model": {"filters": [32, 64, 128, 256, 512], "rsunet_norm": "group"},
            "data": {"patch_size": [32, 128, 128]},
        }
    )
    compute = Compute("cuda", "bf16", channels_last=True)
    network = build_network(
        config.model, 1, plan_pyramid(config.model, (1, 1, 1), (32, 128, 128))
    ).to("cuda", memory_format=torch.channels_last_3d)
    image = torch.rand((4, 1, 32, 128, 128), device="cuda")
    image = image.contiguous(memory_format=torch.channels_last_3d)
    seconds = []
    for _ in range(6):
        started = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16):
            loss = network(image)[0].float().square().mean()
        loss.backward()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    real = 4 * training_cost(config, (1, 1, 1)) / min(seconds)
    assert real / 4 < measure_speed(compute) < 4 * real
