"""A training that takes new labels while it goes on, or begins with corrected ones."""

import numpy as np
import pytest
import torch

from napari_volseg.checkpoint_folder import load_checkpoint
from napari_volseg.config import apply_overrides, build_config
from napari_volseg.errors import DataError
from napari_volseg.events import Finished, Notice, Validated
from napari_volseg.geometry import Box
from napari_volseg.planning import plan_training
from napari_volseg.preparing import TrainingData
from napari_volseg.record import Record
from napari_volseg.runs import (
    Control,
    NewLabels,
    TrainingPair,
    add_revision,
    create_run,
    read_run,
)
from napari_volseg.training import train
from napari_volseg.volume import LabelledVolume


@pytest.fixture
def volume(make_cells):
    return make_cells((12, 64, 64))


@pytest.fixture
def make(tiny_config, volume, tmp_path):
    """Return a factory of run folders; the annotation may be a part."""

    def make(*overrides, name="run", known=None, corrected=()):
        tree = apply_overrides(tiny_config.model_dump(mode="json"), overrides)
        labelled = LabelledVolume(volume.image, volume.labels_ZYX, known)
        pairs = [TrainingPair(labelled, None, corrected=corrected)]
        return create_run(build_config(tree), pairs, tmp_path / "runs", name)

    return make


def _plan(folder):
    config, pairs = read_run(folder)
    return plan_training(config, pairs, folder), pairs


def _train(folder, read_control=Control, **options):
    plan, pairs = _plan(folder)
    return list(train(plan, pairs, folder, read_control=read_control, **options))


class Annotator:
    """Hands in new labels before one step, and asks to stop before another."""

    def __init__(self, folder, labels, at, stop=None):
        self.folder, self.labels, self.at, self.stop = folder, labels, at, stop
        self.asked, self.revision = 0, 1

    def __call__(self):
        if self.asked == self.at:
            self.revision = add_revision(self.folder, [NewLabels(self.labels)])
        self.asked += 1
        is_over = self.stop is not None and self.asked > self.stop
        return Control(revision=self.revision, stop=is_over)


def _notices(events):
    return [event.message for event in events if isinstance(event, Notice)]


def _state(folder):
    return load_checkpoint(folder / "checkpoints")


def test_new_labels_are_taken_at_the_next_step_and_what_changed_is_said(make, volume):
    folder = make("data.val_fraction=0")
    new = np.where(volume.labels_ZYX == 1, 0, volume.labels_ZYX)
    events = _train(folder, Annotator(folder, new, at=2))
    size = np.count_nonzero(volume.labels_ZYX == 1)
    said = [text for text in _notices(events) if text.startswith("Revision 2")]
    assert said == [f"Revision 2: new labels of {size} voxels of 1 object in cells."]
    assert isinstance(events[-1], Finished)
    assert events[-1].reason == "completed"
    record = _state(folder)["record"]
    assert (record["revision"], record["revised_step"]) == (2, 2)
    assert record["step"] == 4


def test_new_labels_change_what_is_learnt(make, volume):
    weights = []
    for name, at in (("old", 99), ("new", 1)):
        folder = make("data.val_fraction=0", name=name)
        new = np.where(volume.labels_ZYX < 9, 0, volume.labels_ZYX)
        _train(folder, Annotator(folder, new, at=at))
        weights.append(_state(folder)["network"])
    assert any(not torch.equal(weights[0][k], weights[1][k]) for k in weights[0])


@pytest.mark.parametrize("stop", [2, 3])
def test_a_resumed_run_goes_on_with_its_labels_as_if_it_had_never_stopped(
    make, volume, stop
):
    new = np.where(volume.labels_ZYX < 9, 0, volume.labels_ZYX)
    whole, parts = make(name="whole"), make(name="parts")
    _train(whole, Annotator(whole, new, at=1))
    _train(parts, Annotator(parts, new, at=1, stop=stop))
    assert _state(parts)["record"]["step"] == stop
    resumed = _train(parts, resume=True)
    assert resumed[-1].reason == "completed"
    assert not [text for text in _notices(resumed) if "Revision" in text]
    one, other = _state(whole), _state(parts)
    assert one["record"]["epochs"] == other["record"]["epochs"]
    assert all(
        torch.equal(one["network"][k], other["network"][k]) for k in one["network"]
    )


def test_labels_handed_in_while_nothing_trains_are_taken_on_resuming(make, volume):
    folder = make()
    _train(folder, Annotator(folder, volume.labels_ZYX, at=99, stop=1))
    new = np.where(volume.labels_ZYX == 2, 0, volume.labels_ZYX)
    add_revision(folder, [NewLabels(new)])
    events = _train(folder, resume=True)
    assert any("Revision 2" in text for text in _notices(events))
    assert _state(folder)["record"]["revised_step"] == 1


def test_labels_that_cannot_be_used_leave_the_training_as_it_is(make, volume):
    folder = make()
    asked = []

    def control():
        asked.append(1)
        return Control(revision=7 if len(asked) > 1 else 1)

    events = _train(folder, control)
    refused = [text for text in _notices(events) if "not taken" in text]
    assert len(refused) == 1
    assert "revision 7" in refused[0]
    assert events[-1].reason == "completed"
    assert _state(folder)["record"]["revision"] == 1


def test_new_labels_in_what_is_held_out_count_for_validation_alone(make, volume):
    known = np.zeros(volume.labels_ZYX.shape, bool)
    known[:, :48] = True
    folder = make("data.val_fraction=0.3", known=known)
    plan, pairs = _plan(folder)
    (held,) = plan.held_out
    data = TrainingData(plan, pairs, folder)
    before = data.source.volumes[0]
    new = volume.labels_ZYX.copy()
    new[held.box.slices] = np.where(new[held.box.slices] > 0, 77, 0)
    add_revision(folder, [NewLabels(new, np.ones(known.shape, bool))])
    record = Record()
    message, is_truth_new = data.take(2, record)
    assert is_truth_new
    assert "held out" in message
    after = data.source.volumes[0]
    corner = after.box.start
    inside = tuple(
        slice(a - c, b - c)
        for a, b, c in zip(held.box.start, held.box.stop, corner, strict=True)
    )
    assert not after.valid_CZYX[(slice(None), *inside)].any()
    assert after.valid_CZYX.sum() > before.valid_CZYX.sum()
    (focus,) = data.source.foci
    hidden = (focus.places_N3 + corner >= held.box.start).all(axis=1) & (
        focus.places_N3 + corner < held.box.stop
    ).all(axis=1)
    assert not hidden.any()


def test_a_held_out_box_that_is_not_annotated_any_more_is_refused(make, volume):
    folder = make("data.val_fraction=0.3")
    plan, pairs = _plan(folder)
    data = TrainingData(plan, pairs, folder)
    known = np.ones(volume.labels_ZYX.shape, bool)
    for held in plan.held_out:
        known[held.box.slices] = False
    add_revision(folder, [NewLabels(volume.labels_ZYX, known)])
    source = data.source
    with pytest.raises(DataError, match="held out for validation"):
        data.take(2, Record())
    assert data.source is source


def test_scores_begin_anew_when_the_truth_changed(make, volume):
    folder = make("data.val_fraction=0.3", "optimization.max_epochs=4")
    plan, _ = _plan(folder)
    (held,) = plan.held_out
    new = volume.labels_ZYX.copy()
    part = new[held.box.slices]
    part[part == np.bincount(part.ravel())[1:].argmax() + 1] = 0
    events = _train(folder, Annotator(folder, new, at=5))
    validated = [event for event in events if isinstance(event, Validated)]
    after = [event for event in validated if event.step > 5]
    assert after[0].best
    assert after[0].metrics["n_true"] < validated[0].metrics["n_true"]


def test_only_the_newest_labels_are_kept(make, volume):
    folder = make()
    revision = [1]

    def control():
        if len(revision) < 4:
            gone = len(revision)
            new = np.where(volume.labels_ZYX == gone, 0, volume.labels_ZYX)
            revision.append(add_revision(folder, [NewLabels(new)]))
        return Control(revision=revision[-1])

    _train(folder, control)
    assert sorted(p.name for p in (folder / "data").glob("r*")) == ["r004"]
    assert _state(folder)["record"]["revision"] == 4


CORRECTED = Box((0, 32, 32), (8, 64, 64))


def _share_drawn_there(source, step):
    """Return which part of many patches is centred where labels were corrected."""
    corner = np.array(source.volumes[0].box.start)
    rngs = (np.random.default_rng([step, i]) for i in range(400))
    places = np.array([source._choose(step, rng)[1] for rng in rngs]) + corner
    inside = (places >= CORRECTED.start) & (places < CORRECTED.stop)
    return inside.all(axis=1).mean()


def test_corrected_places_are_favoured_to_the_end_and_after_new_labels(make, volume):
    shares = {}
    for share in (0, 0.5):
        folder = make(f"data.corrections={share}", name="r", corrected=(CORRECTED,))
        plan, pairs = _plan(folder)
        data = TrainingData(plan, pairs, folder)
        shares[share] = [_share_drawn_there(data.source, step) for step in (0, 10**6)]
        add_revision(folder, [NewLabels(np.where(volume.labels_ZYX == 1, 0, 1))])
        record = Record(step=3)
        data.take(2, record)
        shares[share].append(_share_drawn_there(data.source, 10**6))
        record.step = 10**6
        later = TrainingData(plan, pairs, folder, record)
        shares[share].append(_share_drawn_there(later.source, 10**6))
    assert all(share < 0.3 for share in shares[0])
    assert all(0.5 < share < 0.75 for share in shares[0.5])


def test_corrected_places_are_what_is_learnt_from(make):
    states = []
    for name, corrected in (("plain", ()), ("corrected", (CORRECTED,))):
        folder = make(name=name, corrected=corrected)
        _train(folder)
        states.append(_state(folder)["network"])
    assert any(not torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_a_resumed_run_favours_the_same_corrected_places(make):
    whole, parts = (make(name=name, corrected=(CORRECTED,)) for name in ("w", "p"))
    _train(whole)
    _train(parts, Annotator(parts, None, at=99, stop=2))
    assert _state(parts)["record"]["step"] == 2
    _train(parts, resume=True)
    one, other = _state(whole), _state(parts)
    assert one["record"]["epochs"] == other["record"]["epochs"]
    assert all(
        torch.equal(one["network"][k], other["network"][k]) for k in one["network"]
    )
