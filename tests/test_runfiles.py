"""A disk that refuses is told about once, and tried again."""

from __future__ import annotations

import errno
from types import SimpleNamespace

import pytest

from napari_volseg.errors import DataError
from napari_volseg.events import CheckpointSaved, Notice, PreviewReady
from napari_volseg.pacing import Pace
from napari_volseg.runfiles import RunFiles

BROKEN = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EROFS, "Read-only file system"),
    OSError(errno.ESTALE, "Stale file handle"),
    DataError(
        "the checkpoint cannot be written (Disk quota exceeded): free some space"
    ),
]
LEARNER = SimpleNamespace(
    step=7,
    state=dict,
    metadata=dict,
    result=SimpleNamespace(state_dict=dict),
)


@pytest.fixture
def disk(monkeypatch, tmp_path):
    """A disk that a test can break and mend."""
    state = SimpleNamespace(error=None, bests=[])

    def save(folder, content, step, *, best, keep):
        if state.error:
            raise state.error
        state.bests.append(best)
        return tmp_path / "checkpoints" / f"step-{step:06d}.ckpt"

    def save_model(*args):
        if state.error:
            raise state.error

    monkeypatch.setattr("napari_volseg.runfiles.save_checkpoint", save)
    monkeypatch.setattr("napari_volseg.runfiles.save_model", save_model)
    return state


@pytest.fixture
def files(tmp_path):
    return RunFiles(tmp_path, 3, Pace(60))


def _all(generator):
    """Return the events of a generator, and what it returns."""
    events = []
    try:
        while True:
            events.append(next(generator))
    except StopIteration as stop:
        return events, stop.value


def test_a_checkpoint_is_announced(files, disk):
    events = list(files.save_checkpoint(LEARNER))
    assert events == [CheckpointSaved(7, "checkpoints/step-000007.ckpt", False)]


@pytest.mark.parametrize("error", BROKEN, ids=str)
def test_a_disk_that_refuses_is_told_once_and_again_when_it_works(files, disk, error):
    disk.error = error
    first = list(files.save_checkpoint(LEARNER))
    assert [e.level for e in first] == ["warning"]
    assert "training goes on" in first[0].message
    assert str(error) in first[0].message
    assert list(files.save_checkpoint(LEARNER)) == []
    disk.error = None
    notice, saved = files.save_checkpoint(LEARNER)
    assert notice == Notice("A checkpoint was saved again.")
    assert isinstance(saved, CheckpointSaved)
    assert [type(e) for e in files.save_checkpoint(LEARNER)] == [CheckpointSaved]


def test_the_best_model_marks_the_next_checkpoint_once(files, disk):
    assert _all(files.save_best(LEARNER)) == ([], True)
    list(files.save_checkpoint(LEARNER))
    list(files.save_checkpoint(LEARNER))
    assert disk.bests == [True, False]


def test_a_best_model_that_was_not_written_is_not_the_best(files, disk):
    disk.error = BROKEN[0]
    (notice,), saved = _all(files.save_best(LEARNER))
    assert not saved
    assert notice.message.startswith("No model was saved")
    disk.error = None
    list(files.save_checkpoint(LEARNER))
    assert disk.bests == [False]


def test_a_preview_that_cannot_be_written_does_not_end_the_training(files):
    def refuse(learner, box):
        raise BROKEN[0]

    news = PreviewReady(7, "previews/a.npz", 0, (0, 0, 0), (1, 1, 1))
    broken = SimpleNamespace(make=refuse)
    whole = SimpleNamespace(make=lambda learner, box: (news, "maps"))
    (notice,), maps = _all(files.save_preview(broken, LEARNER, None))
    assert maps is None
    assert notice.message.startswith("No preview was saved")
    events, maps = _all(files.save_preview(whole, LEARNER, None))
    assert (events[-1], maps) == (news, "maps")


def test_a_failure_that_is_no_disks_is_no_secret(files, disk):
    disk.error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        list(files.save_checkpoint(LEARNER))
