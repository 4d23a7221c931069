import json
import mmap
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from napari_volseg import batching
from napari_volseg.batching import fit_batch, run_trial, try_steps
from napari_volseg.config import apply_overrides, build_config
from napari_volseg.errors import DataError
from napari_volseg.failures import JobError
from napari_volseg.planning import plan_training
from napari_volseg.runs import TrainingPair
from napari_volseg.settling import settle

GB = 10**9


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch, tmp_path):
    """Keep what is remembered of this machine out of the tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def make_plan(tiny_config, make_cells):
    def make(*overrides, shape=(12, 40, 40)):
        tree = apply_overrides(
            tiny_config.model_dump(mode="json"),
            ["system.training.batch_size=auto", *overrides],
        )
        return plan_training(
            build_config(tree), [TrainingPair(make_cells(shape), None)]
        )

    return make


@pytest.fixture
def machine(monkeypatch):
    """Pretend what a step takes of the memory, and how much of it there is."""

    def pretend(trial, free=100 * GB):
        monkeypatch.setattr(batching, "try_steps", lambda plan: trial)
        monkeypatch.setattr(batching, "available_memory", lambda device: free)

    return pretend


def test_what_fits_whole_is_left_alone_in_silence(make_plan, machine):
    machine({"one": 1 * GB, "two": 2 * GB})
    plan = make_plan()
    assert fit_batch(plan) == (plan, None)


@pytest.mark.parametrize(
    ("free", "size"), [(5.1, 4), (4.9, 2), (2.6, 2), (2.4, 1), (1.3, 1)]
)
def test_a_step_sees_as_many_patches_whatever_fits(make_plan, machine, free, size):
    """One patch takes 1 GB, and a fifth of the memory stays free."""
    machine({"one": 1 * GB, "two": 2 * GB}, free * GB)
    before = make_plan("optimization.accumulate_grad_batches=3")
    plan, notice = fit_batch(before)
    assert plan.config.system.training.batch_size == size
    assert plan.patches_per_step == before.patches_per_step == 12
    assert plan.steps_per_epoch == before.steps_per_epoch
    assert plan.config.optimization.accumulate_grad_batches == 12 // size
    assert (notice is None) == (size == 4)
    if notice:
        assert f"{size} patches at a time fit into memory, not 4" in notice


def test_processes_share_the_memory(make_plan, machine):
    machine({"one": 1 * GB, "two": 2 * GB}, 5.1 * GB)
    plan, _ = fit_batch(make_plan("system.training.num_processes=2"))
    assert plan.config.system.training.batch_size == 2
    assert plan.patches_per_step == 8


def test_a_gpu_says_how_often_it_had_to_divide(make_plan, machine):
    machine({"parts": 4})
    plan, _ = fit_batch(make_plan())
    assert plan.config.system.training.batch_size == 1


def test_not_one_patch_is_refused_before_the_start(make_plan, machine):
    machine({"one": 3 * GB, "two": 4 * GB}, 2 * GB)
    with pytest.raises(DataError, match=r"needs 3\.0 GB and 1\.6 GB .*patch_size"):
        fit_batch(make_plan())


@pytest.fixture
def process(monkeypatch):
    """Let the throw-away process end with a code and words."""

    def end(code, stdout=b"", stderr=b""):
        done = SimpleNamespace(returncode=code, stdout=stdout, stderr=stderr)
        monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: done)

    return end


def test_what_a_library_prints_is_no_answer(make_plan, process):
    process(0, b"loading kernels\n" + json.dumps({"parts": 2}).encode() + b"\n")
    assert try_steps(make_plan()) == {"parts": 2}


@pytest.mark.parametrize(
    ("code", "stderr"), [(-9, b""), (1, b"torch.OutOfMemoryError: CUDA out of memory")]
)
def test_a_trial_that_dies_of_memory_is_explained(make_plan, process, code, stderr):
    process(code, stderr=stderr)
    with pytest.raises(DataError, match="does not fit into memory: lower"):
        try_steps(make_plan())


def test_a_trial_that_fails_otherwise_names_the_way_round(make_plan, process):
    process(1, stderr=b"Traceback\nValueError: odd")
    with pytest.raises(JobError, match=r"ValueError: odd\): set .*batch_size"):
        try_steps(make_plan())


@pytest.mark.slow
def test_the_trial_measures_what_a_step_takes(make_plan):
    """At least the first level's features of a patch, kept for the backward pass."""
    size = (12, 96, 96)
    settings = [f"data.patch_size={list(size)}", "model.filters=[16,32]"]
    measured = try_steps(make_plan(*settings, shape=size))
    features = 16 * 12 * 96 * 96 * 4
    assert measured["one"] > features
    assert measured["two"] > measured["one"] + features


@pytest.mark.parametrize("is_noted", [True, False])
def test_a_peak_is_more_than_what_was_taken(monkeypatch, is_noted):
    """By Linux, which notes it, and by looking, as on other systems."""
    if not is_noted:
        monkeypatch.setattr(batching, "_forget_noted_peak", lambda: False)
    elif not sys.platform.startswith("linux"):
        pytest.skip("only Linux notes the peak")
    size = 64_000_000
    deadline = time.monotonic() + 60
    with batching._Peak() as peak, mmap.mmap(-1, size) as taken:
        taken.write(bytes(size))
        while peak.bytes < size and time.monotonic() < deadline:
            taken[0] = 1
        assert peak.bytes >= size


def test_the_trial_answers_in_this_process_too(make_plan, monkeypatch):
    monkeypatch.setattr(batching, "_be_killed_first", lambda: None)
    assert run_trial(make_plan().to_json()).keys() == {"one", "two"}


def test_settling_tries_once(make_plan, machine, monkeypatch):
    machine({"one": 1 * GB, "two": 2 * GB}, 3 * GB)
    plan = settle(make_plan())
    assert plan.is_settled
    assert any("fit into memory" in notice for notice in plan.notices)
    monkeypatch.setattr(batching, "try_steps", lambda plan: pytest.fail("tried again"))
    assert settle(plan) == plan


def test_a_trial_is_not_repeated(make_plan, process, monkeypatch):
    process(0, b'{"one": 1, "two": 2}')
    first = try_steps(make_plan())
    process(1, stderr=b"never asked")
    assert try_steps(make_plan()) == first
    with pytest.raises(JobError):
        try_steps(make_plan("model.filters=[4,16]"))
