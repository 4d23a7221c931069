"""Who is hung, by a clock that the test turns."""

import os
import signal
import subprocess
import sys
import time

import pytest

from napari_volseg.ranks.watch import Idleness, Watch


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def _run(watch, clock, seconds, beats=(), idle=lambda rank, silence: False):
    """Let time pass in short looks, with the same beats in each."""
    for _ in range(int(seconds)):
        clock.now += 1
        for beat in beats:
            watch.hear(*beat)
        if (hung := watch.hung(idle)) is not None:
            return hung
    return None


def test_who_beats_is_alive(clock):
    watch = Watch(2, 10, clock)
    beats = [(0, "busy", 1, 0.0), (1, "waiting", 1, 0.0)]
    assert _run(watch, clock, 1000, beats) is None


def test_silence_without_computing_is_a_hang(clock):
    watch = Watch(2, 10, clock)
    watch.hear(0, "stepping", 1, 0.0)
    watch.hear(1, "stepping", 1, 0.0)
    rank, how = _run(watch, clock, 30, [(0, "stepping", 2, 0.0)], lambda *_: True)
    assert rank == 1
    assert "no sign of life for 11 seconds" in how


def test_silence_in_a_long_computation_is_none(clock):
    watch = Watch(2, 10, clock)
    watch.hear(0, "busy", 1, 0.0)
    assert _run(watch, clock, 100, [(1, "waiting", 1, 0.0)]) is None


def test_a_start_may_take_longer_than_a_beat(clock):
    watch = Watch(2, 10, clock)
    assert _run(watch, clock, 115, idle=lambda *_: True) is None
    assert _run(watch, clock, 10, idle=lambda *_: True) is not None


def test_all_waiting_for_one_that_does_not_end_its_step(clock):
    watch = Watch(3, 10, clock)
    beats = [(0, "waiting", 8, 5.0), (1, "stepping", 7, 5.0), (2, "waiting", 8, 5.0)]
    rank, how = _run(watch, clock, 100, beats)
    assert rank == 1
    assert "did not end a step that the others ended" in how


def test_the_longest_step_so_far_adds_to_the_patience(clock):
    watch = Watch(2, 10, clock)
    beats = [(0, "waiting", 8, 50.0), (1, "stepping", 7, 50.0)]
    assert _run(watch, clock, 55, beats) is None
    assert _run(watch, clock, 10, beats) is not None


def test_steps_that_end_are_no_hang_however_they_are_sampled(clock):
    watch = Watch(2, 10, clock)
    for turn in range(100):
        beats = [(0, "waiting", 7, 1.0), (1, "stepping", turn, 1.0)]
        assert _run(watch, clock, 1, beats) is None


def test_waiting_for_a_validation_is_no_hang(clock):
    watch = Watch(2, 10, clock)
    beats = [(0, "busy", 3, 1.0), (1, "waiting", 8, 1.0)]
    assert _run(watch, clock, 1000, beats) is None


def test_a_machine_that_slept_forgives_the_silence(clock):
    watch = Watch(2, 10, clock)
    watch.hear(0, "stepping", 1, 0.0)
    watch.hear(1, "stepping", 1, 0.0)
    clock.now += 8 * 3600
    assert watch.hung(lambda *_: True) is None
    assert _run(watch, clock, 9, idle=lambda *_: True) is None
    assert _run(watch, clock, 9, idle=lambda *_: True) is not None


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_a_stopped_process_is_idle_at_once():
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as it:
        os.kill(it.pid, signal.SIGSTOP)
        os.waitpid(it.pid, os.WUNTRACED)
        assert Idleness()(it.pid, 1.0)
        it.kill()


def test_a_process_that_computes_is_not_idle(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    idle = Idleness()
    for _ in range(8):
        now[0] += 1
        until = time.process_time() + 0.1
        while time.process_time() < until:
            pass
        assert not idle(os.getpid(), now[0])
    for _ in range(10):
        now[0] += 1
        quiet = idle(os.getpid(), now[0])
    assert quiet


def test_a_process_that_is_gone_is_not_called_hung():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert not Idleness()(gone.pid, 10.0)
