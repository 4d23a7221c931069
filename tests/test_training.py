"""The training loop, as a generator of events on a tiny volume."""

import numpy as np
import pytest
import torch

from napari_volseg.checkpoint import load_model
from napari_volseg.checkpoint_folder import load_checkpoint
from napari_volseg.config import apply_overrides, build_config
from napari_volseg.errors import DataError
from napari_volseg.events import (
    CheckpointSaved,
    Finished,
    Notice,
    PreviewReady,
    Progress,
    Started,
    Validated,
)
from napari_volseg.intensities import describe_intensities
from napari_volseg.models import read_model_info
from napari_volseg.planning import plan_training
from napari_volseg.runs import Control, TrainingPair
from napari_volseg.schedules import Schedule
from napari_volseg.training import train
from napari_volseg.validation import HeldOutVoxels
from napari_volseg.volume import LabelledVolume, Volume


@pytest.fixture
def pairs(make_cells):
    return [TrainingPair(make_cells((12, 64, 64), seed=0), None)]


@pytest.fixture
def run(tiny_config, pairs, tmp_path):
    """Train with overrides in a folder; return all events."""

    def start(*overrides, folder=tmp_path, resume=False, control=Control, use=pairs):
        tree = apply_overrides(tiny_config.model_dump(mode="json"), overrides)
        plan = plan_training(build_config(tree), use)
        return list(train(plan, use, folder, resume=resume, read_control=control))

    return start


def _of(kind, events):
    return [event for event in events if isinstance(event, kind)]


def _weights(folder):
    return load_checkpoint(folder / "checkpoints")["network"]


class StopAt:
    """Asks for a stop once, at the given step."""

    def __init__(self, step):
        self.asked, self.step = 0, step

    def __call__(self):
        self.asked += 1
        return Control(stop=self.asked > self.step)


def test_a_run_starts_reports_validates_saves_and_finishes(run, pairs, tmp_path):
    events = run()
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    assert events[-1].reason == "completed"
    assert [v.step for v in _of(Validated, events)] == [2, 4]
    assert _of(Progress, events)[-1].step == 4
    assert _of(CheckpointSaved, events)[-1].step == 4
    assert {"f1_50", "ap", "adapted_rand_error"} <= events[-1].metrics.keys()
    model = load_model(tmp_path / "model.safetensors")
    assert model.voxel_size == (40, 10, 10)
    image = pairs[0].volume.image
    percentiles = model.config.data.percentiles
    assert model.intensities == (describe_intensities(image, percentiles),)
    assert read_model_info(tmp_path / "model.safetensors").intensities == (
        model.intensities
    )
    assert events[-1].path == str(tmp_path / "model.safetensors")


def test_previews_hold_the_maps_of_the_box_asked_for(run, tmp_path):
    box = (0, (2, 8, 8), (10, 40, 32))
    events = run(control=lambda: Control(preview_box=box))
    preview = _of(PreviewReady, events)[-1]
    assert (preview.start, preview.stop) == box[1:]
    with np.load(tmp_path / preview.path) as stored:
        assert stored["maps"].shape == (3, 8, 32, 24)
        assert stored["maps"].dtype == np.uint8
        assert stored["instances"].shape == (8, 32, 24)


def test_the_same_seed_gives_the_same_weights(run, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        run(folder=tmp_path / name)
    first, second = _weights(tmp_path / "a"), _weights(tmp_path / "b")
    assert all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize("scheduler", ["warmup_cosine", "ReduceLROnPlateau"])
def test_a_resumed_run_goes_on_as_if_it_had_never_stopped(
    run, tmp_path, step, scheduler
):
    name = f"optimization.scheduler.name={scheduler}"
    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
    run(name, folder=tmp_path / "whole")
    stopped = run(name, folder=tmp_path / "parts", control=StopAt(step))
    assert stopped[-1].reason == "stopped"
    resumed = run(name, folder=tmp_path / "parts", resume=True)
    assert resumed[0].step == step
    assert resumed[-1].reason == "completed"
    whole, parts = _weights(tmp_path / "whole"), _weights(tmp_path / "parts")
    assert all(torch.equal(whole[k], parts[k]) for k in whole)


@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 1), (2, 4)])
def test_epochs_that_are_done_stay_done_with_another_batch(run, before, after):
    batch = "system.training.batch_size={}".format
    done = run(batch(before))[-2].step
    events = run(batch(after), "optimization.max_epochs=3", resume=True)
    missing = 4 // after
    assert (events[0].step, events[0].total) == (done, done + missing)
    last = _of(Progress, events)[-1]
    assert (last.step, last.total, last.epoch) == (done + missing, done + missing, 3)
    assert [v.step for v in _of(Validated, events)] == [done + missing]
    # Another session counts on from there.
    events = run(batch(after), "optimization.max_epochs=4", resume=True)
    assert _of(Progress, events)[-1].step == done + 2 * missing


def test_an_epoch_that_is_half_done_is_ended_with_another_batch(run):
    run("system.training.batch_size=1", control=StopAt(6))
    events = run("system.training.batch_size=2", resume=True)
    last = _of(Progress, events)[-1]
    assert (events[0].step, last.step, last.total, last.epoch) == (6, 7, 7, 2)


def test_a_checkpoint_that_does_not_say_how_long_its_epochs_were_goes_on(run, tmp_path):
    run(control=StopAt(3))
    for path in (tmp_path / "checkpoints").glob("*.ckpt"):
        state = torch.load(path, weights_only=True)
        state["record"].pop("steps_per_epoch", None)  # some files are one
        state["record"].pop("shift", None)
        torch.save(state, path)
    (tmp_path / "checkpoints" / "index.json").unlink()  # it has their old hashes
    events = run(resume=True)
    assert (events[0].step, _of(Progress, events)[-1].step) == (3, 4)


def test_a_stopped_run_leaves_a_model(run, tmp_path):
    events = run(control=StopAt(1))
    assert events[-1].reason == "stopped"
    load_model(tmp_path / "model.safetensors")


def test_a_run_stopped_twice_before_its_first_score_leaves_its_newest_model(
    run, tmp_path
):
    rare = "monitor.val_every_epochs=9"
    run(rare, control=StopAt(1))
    events = run(rare, control=StopAt(1), resume=True)
    assert (events[-1].reason, _of(Validated, events)) == ("stopped", [])
    model = load_model(tmp_path / "model.safetensors").network.state_dict()
    assert all(torch.equal(model[k], v) for k, v in _weights(tmp_path).items())


@pytest.mark.parametrize("every", [1, 2])
def test_the_held_out_loss_alone_lowers_the_rate_and_counts_for_patience(
    run, monkeypatch, every
):
    watched = []
    end_epoch = Schedule.end_epoch

    def note(schedule, loss, n_epochs=1):
        watched.append((loss, n_epochs))
        return end_epoch(schedule, loss, n_epochs)

    monkeypatch.setattr(Schedule, "end_epoch", note)
    events = run("optimization.max_epochs=4", f"monitor.val_every_epochs={every}")
    losses = [event.metrics["loss"] for event in _of(Validated, events)]
    assert len(losses) == 4 // every
    assert watched == [(loss, every) for loss in losses]


def test_a_pause_saves_and_goes_on_when_it_ends(run, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    asked = []

    def control():
        asked.append(1)
        return Control(pause=2 <= len(asked) <= 5)

    events = run(control=control)
    assert [p.state for p in _of(Progress, events)].count("paused") == 1
    assert events[-1].reason == "completed"


def test_a_stop_ends_a_pause(run, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    asked = []

    def control():
        asked.append(1)
        return Control(pause=True, stop=len(asked) > 3)

    assert run(control=control)[-1].reason == "stopped"


def test_without_validation_the_training_loss_chooses_and_that_is_said(run):
    events = run("data.val_fraction=0")
    assert not _of(Validated, events)
    assert any("Nothing is held out" in n.message for n in _of(Notice, events))
    assert events[-1].reason == "completed"


def test_early_stopping_by_patience(run):
    events = run(
        "optimization.max_epochs=40",
        "optimization.optimizer.lr=1e-12",
        "monitor.early_stopping.patience=2",
        "monitor.early_stopping.min_delta=0.5",
    )
    assert events[-1].reason == "converged"
    assert _of(Progress, events)[-1].step < 80


def test_early_stopping_by_threshold(run):
    events = run("optimization.max_epochs=40", "monitor.early_stopping.threshold=50")
    assert events[-1].reason == "converged"
    assert _of(Progress, events)[-1].step == 2


def test_a_time_budget_ends_the_run(run):
    events = run("optimization.max_epochs=100000", "optimization.max_minutes=0.001")
    assert events[-1].reason == "completed"


def test_accumulated_batches_equal_one_large_batch(run, tmp_path):
    """Without batch statistics, two halves and one whole are the same step."""
    for name in ("whole", "halves"):
        (tmp_path / name).mkdir()
    common = [
        "model.rsunet_norm=group",
        "data.iter_num_per_epoch=4",
        "optimization.max_epochs=1",
        "model.loss_weights=[0,0,1]",
        "optimization.gradient_clip_val=0",
    ]
    run(*common, "system.training.batch_size=4", folder=tmp_path / "whole")
    run(
        *common,
        "system.training.batch_size=2",
        "optimization.accumulate_grad_batches=2",
        folder=tmp_path / "halves",
    )
    whole, halves = _weights(tmp_path / "whole"), _weights(tmp_path / "halves")
    moved = max(float((whole[k] - halves[k]).abs().max()) for k in whole)
    assert moved < 2.5e-3  # one AdamW step moves a weight by at most the rate


def test_a_full_disk_does_not_end_the_training(run, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("napari_volseg.runfiles.save_checkpoint", refuse)
    events = run()
    assert any("No checkpoint was saved" in n.message for n in _of(Notice, events))
    assert events[-1].reason == "completed"


def test_sparse_annotation_with_a_mask_trains(run, make_cells):
    volume = make_cells((12, 64, 64))
    annotated = np.zeros(volume.labels_ZYX.shape, bool)
    annotated[5] = True
    sparse = type(volume)(volume.image, volume.labels_ZYX, annotated)
    events = run(use=[TrainingPair(sparse, None)])
    assert events[-1].reason == "completed"


def test_the_users_arrays_are_left_alone(run, pairs):
    volume = pairs[0].volume
    before = volume.image.data.copy(), volume.labels_ZYX.copy()
    volume.image.data.flags.writeable = False
    volume.labels_ZYX.flags.writeable = False
    run()
    np.testing.assert_array_equal(volume.image.data, before[0])
    np.testing.assert_array_equal(volume.labels_ZYX, before[1])


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.deep_supervision=true", "model.filters=[4,8,8]"],
        ["model.architecture=monai_unet"],
        ["optimization.precision=bf16-mixed"],
        ["data.pad_size=[2,4,4]", "system.training.num_workers=2"],
    ],
    ids=lambda o: o[0],
)
def test_every_way_of_training_finishes(run, overrides):
    assert run(*overrides)[-1].reason == "completed"


def test_a_training_begins_with_the_weights_of_a_model(run, tmp_path):
    (tmp_path / "first").mkdir()
    finished = run(folder=tmp_path / "first")[-1]
    model = tmp_path / "first" / "model.safetensors"
    begin = f"model.initial_weights={model}"
    still = ("optimization.optimizer.lr=1e-12", "optimization.max_epochs=1")
    (tmp_path / "second").mkdir()
    (tmp_path / "random").mkdir()
    events = run(begin, *still, folder=tmp_path / "second")
    started_anew = run(*still, folder=tmp_path / "random")
    # How good it was at first is said, scored as when it was made.
    start = _of(Validated, events)[0]
    assert (start.step, start.best) == (0, False)
    assert start.metrics == finished.metrics
    assert start.metrics["n_true"] > 0
    assert _of(Validated, started_anew)[0].step > 0
    first = load_model(model).network.state_dict()
    second, random = _weights(tmp_path / "second"), _weights(tmp_path / "random")
    names = [name for name in first if name.endswith("weight")]
    assert names
    for name in names:
        torch.testing.assert_close(second[name], first[name])
    assert any(not torch.allclose(random[name], first[name]) for name in names)


@pytest.mark.parametrize(
    ("change", "is_said"), [(0.5, True), (0.01, False), (-1, False)]
)
def test_it_is_said_when_training_on_made_a_model_worse(
    run, tmp_path, monkeypatch, change, is_said
):
    (tmp_path / "first").mkdir()
    run(folder=tmp_path / "first")
    begin = f"model.initial_weights={tmp_path / 'first' / 'model.safetensors'}"
    score, scored = HeldOutVoxels.score, []

    def change_later_losses(held_out, maps, thresholds):
        scored.append(0 if not scored else change)
        metrics = score(held_out, maps, thresholds)
        return metrics | {"loss": 2 + scored[-1], "n_true": 1}

    monkeypatch.setattr(HeldOutVoxels, "score", change_later_losses)
    (tmp_path / "second").mkdir()
    notices = _of(Notice, run(begin, folder=tmp_path / "second"))
    assert any("began with scored better" in n.message for n in notices) == is_said


def test_a_run_that_began_so_resumes_without_that_file(run, tmp_path):
    (tmp_path / "first").mkdir()
    run(folder=tmp_path / "first")
    model = tmp_path / "first" / "model.safetensors"
    begin = f"model.initial_weights={model}"
    (tmp_path / "second").mkdir()
    run(begin, folder=tmp_path / "second", control=StopAt(2))
    model.unlink()
    events = run(begin, folder=tmp_path / "second", resume=True)
    assert events[-1].reason == "completed"


def test_weights_of_another_network_are_refused(run, tmp_path):
    (tmp_path / "first").mkdir()
    run(folder=tmp_path / "first")
    begin = f"model.initial_weights={tmp_path / 'first' / 'model.safetensors'}"
    with pytest.raises(DataError, match="weights of another network"):
        run(begin, "model.filters=[4,12]", folder=tmp_path / "second")
    with pytest.raises(DataError, match="not there"):
        run("model.initial_weights=none.safetensors", folder=tmp_path / "third")


def test_a_constant_image_is_told(run, pairs):
    whole = pairs[0].volume
    flat = Volume(np.full_like(whole.image.data, 7), whole.image.voxel_size, "flat")
    events = run(
        "optimization.max_epochs=1",
        use=[TrainingPair(LabelledVolume(flat, whole.labels_ZYX), None)],
    )
    told = [n.message for n in _of(Notice, events) if "same gray value" in n.message]
    assert told[0].startswith("The image flat has the same gray value everywhere")
    assert not any("same gray value" in n.message for n in _of(Notice, run()))
