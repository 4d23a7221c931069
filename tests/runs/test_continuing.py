"""More of a run that has used up its budget."""

import pytest

from napari_volseg.errors import DataError
from napari_volseg.events import Progress
from napari_volseg.runs import (
    EventLog,
    TrainingPair,
    amend_run,
    create_run,
    longer_budget,
)


@pytest.fixture
def make(tmp_path, tiny_config, cells):
    def make(minutes=None, epoch=4, elapsed=120.0):
        optimization = tiny_config.optimization.model_copy(
            update={"max_minutes": minutes, "max_epochs": 4}
        )
        config = tiny_config.model_copy(update={"optimization": optimization})
        folder = create_run(config, [TrainingPair(cells, None)], tmp_path, "run")
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "last.ckpt").touch()
        EventLog(folder).append(Progress(8, 8, elapsed, epoch=epoch))
        return folder

    return make


def test_epochs_are_added_at_the_pace_so_far(make):
    folder = make()
    config = amend_run(folder, longer_budget(folder, minutes=5))
    assert config.optimization.max_epochs == 4 + 10
    assert config.optimization.max_minutes is None
    assert not config.monitor.early_stopping.enabled


def test_minutes_are_added_and_decide(make):
    folder = make(minutes=2)
    config = amend_run(folder, longer_budget(folder, minutes=5))
    assert config.optimization.max_minutes == pytest.approx(7)
    assert config.optimization.max_epochs == 4 + 20


def test_a_run_without_a_checkpoint_cannot_go_on(make):
    folder = make()
    (folder / "checkpoints" / "last.ckpt").unlink()
    with pytest.raises(DataError, match="nothing to go on from"):
        longer_budget(folder, 5)
