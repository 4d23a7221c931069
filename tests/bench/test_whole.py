"""What a machine does in a minute, on a clock that only the measured work moves."""

import pytest

from napari_volseg.bench import bench
from napari_volseg.events import Notice
from napari_volseg.forward import Forward
from napari_volseg.mapjob import MapJob
from napari_volseg.planning import plan_training
from napari_volseg.profiling import Learner
from napari_volseg.runs import TrainingPair
from napari_volseg.sampling import PatchSource

BENCH = "napari_volseg.bench"


class Clock:
    seconds = 0.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def measured(tiny_config, cells, tmp_path, monkeypatch):
    """Return a function that measures with given seconds of each kind of work."""

    def run(
        step=0.5, patch=0.0, window=0.25, block=0.0, flood=0.0, disk=1e12, seconds=40.0
    ):
        clock = Clock()

        def slow(owner, name, cost):
            work = getattr(owner, name)

            def slowed(*args, **keys):
                clock.seconds += cost(args)
                return work(*args, **keys)

            monkeypatch.setattr(owner, name, slowed)

        def no_choice(job, *_):
            yield Notice("Tried")
            return job

        slow(Learner, "learn", lambda args: step)
        slow(PatchSource, "draw", lambda args: patch)
        slow(Forward, "__call__", lambda args: window * len(args[1]))
        slow(MapJob, "write", lambda args: block)

        def segment(*args, **keys):
            clock.seconds += flood

        monkeypatch.setattr(f"{BENCH}.segmenting.segment_stored", segment)
        monkeypatch.setattr(f"{BENCH}.whole.disk_speed", lambda *args: disk)
        monkeypatch.setattr(f"{BENCH}.predicting.choose_form", no_choice)
        pairs = [TrainingPair(cells, None, "train")]
        plan = plan_training(tiny_config, pairs, tmp_path)
        return bench(plan, pairs, tmp_path, seconds=seconds, now=clock)

    return run


def test_a_network_that_always_works_is_what_limits(measured):
    found = measured(step=0.5, window=0.25, flood=2.0)
    assert found.train.steps_per_minute == pytest.approx(120)
    assert found.train.patches_per_minute == pytest.approx(240)
    assert found.train.mvox_per_minute == pytest.approx(240 * 8 * 16 * 16 / 1e6)
    assert found.train.limit == "network"
    assert found.predict.windows_per_minute == pytest.approx(240)
    assert found.predict.network_windows_per_minute == pytest.approx(240)
    assert found.predict.limit == "network"
    assert found.predict.note == "Tried"
    # A window is 8 × 16 × 16 voxels, a quarter of which others see again.
    assert found.predict.visits == pytest.approx((4 / 3) ** 3, rel=0.05)
    assert found.predict.mvox_per_minute == pytest.approx(
        240 * 8 * 16 * 16 / found.predict.visits / 1e6
    )
    n_voxels = 8 * 48 * 160 * 160
    assert found.segment.mvox_per_minute == pytest.approx(30 * n_voxels / 1e6)
    assert found.seconds < 60


def test_what_waits_for_data_or_for_the_disk_says_so(measured):
    found = measured(step=0.5, patch=0.5, window=0.02, block=10.0, flood=1.0)
    assert found.train.limit == "data"
    assert found.train.steps_per_minute == pytest.approx(60 / 1.5)
    assert found.train.ready_steps_per_minute == pytest.approx(120)
    assert found.predict.limit == "reading and writing"
    assert found.predict.windows_per_minute < (
        0.5 * found.predict.network_windows_per_minute
    )
    assert found.segment.limit == "processors"


def test_a_slow_disk_limits_all_that_is_written(measured):
    found = measured(block=1.0, flood=1.0, disk=1e3)
    assert found.disk_mb_per_second == pytest.approx(1e-3)
    assert found.predict.limit == "disk"
    assert found.segment.limit == "disk"


def test_a_step_and_a_window_of_a_minute_are_taken_once_or_twice(measured):
    found = measured(step=60.0, window=60.0, flood=1.0, seconds=1.0)
    assert found.train.steps_per_minute == pytest.approx(1)
    assert found.predict.windows_per_minute == pytest.approx(1)
    # Three steps and one that warms up; twice two passes and one window.
    assert found.seconds < 60 * (4 + 5) + 30
