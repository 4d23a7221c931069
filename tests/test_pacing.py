import pytest

from napari_volseg.pacing import Pace


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves on."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr("napari_volseg.pacing.time", clock)
    return clock


def test_laps_add_up_to_the_time_that_passed(clock):
    pace = Pace(60)
    laps = []
    for seconds in (1.5, 0.0, 2.0):
        clock.now += seconds
        laps.append(pace.lap())
    assert laps == [1.5, 0.0, 2.0]


def test_reports_come_every_half_second(clock):
    pace = Pace(60)
    assert pace.report_due()
    pace.reported()
    assert not pace.report_due()
    clock.now += 0.5
    assert pace.report_due()


def test_checkpoints_come_at_their_interval(clock):
    pace = Pace(60)
    clock.now += 59.9
    assert not pace.checkpoint_due()
    clock.now += 0.1
    assert pace.checkpoint_due()
    pace.saved(0.1)
    assert not pace.checkpoint_due()


@pytest.mark.parametrize("seconds", [0.01, 1.0, 5.0, 60.0])
def test_saving_takes_two_percent_of_the_time_at_most(clock, seconds):
    pace = Pace(60)
    began, spent, intervals = clock.now, 0.0, []
    for _ in range(20):
        before = clock.now
        while not pace.checkpoint_due():
            clock.now += 1.0
        assert spent / (clock.now - began) <= 0.02
        clock.now += seconds
        spent += seconds
        pace.saved(seconds)
        intervals.append(clock.now - before)
    assert min(intervals) >= 60
    assert max(intervals) <= 61 + 51 * seconds


def test_one_slow_save_among_quick_ones_changes_little(clock):
    pace = Pace(60)
    for seconds in [0.1] * 50 + [5.0]:
        clock.now += 60
        assert pace.checkpoint_due()
        pace.saved(seconds)
    assert pace.checkpoint_seconds == 60


def test_a_save_that_failed_is_tried_again_after_the_interval(clock):
    pace = Pace(60)
    pace.saved(0.0)
    clock.now += 60
    assert pace.checkpoint_due()
