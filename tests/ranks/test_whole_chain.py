"""The whole chain: a program, the worker it launched, and the worker's ranks."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from napari_volseg.events import Notice, Progress
from napari_volseg.runs import (
    follow,
    is_locked,
    launch,
    read_events,
    read_result,
    write_control,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals"),
]

ENDLESS = (
    "system.training.num_processes=2",
    "optimization.max_epochs=100000",
    "data.iter_num_per_epoch=4000",
)

PARENT = """
import sys, time
from pathlib import Path
from napari_volseg.runs import launch
worker = launch(Path(sys.argv[1]))
print(worker.pid, flush=True)
time.sleep(600)
"""


def test_a_killed_program_takes_worker_and_ranks_along(make_run):
    run = make_run(*ENDLESS)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as under nohup
    try:
        program = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(run)], stdout=subprocess.PIPE, text=True
        )
    finally:
        signal.signal(signal.SIGINT, before)
    with program:
        worker = psutil.Process(int(program.stdout.readline()))
        _until(lambda: _progress(run))
        family = [worker, *worker.children(recursive=True)]
        assert len(family) == 3
        program.kill()
        _until(lambda: not any(map(_lives, family)))
    # A process whose main thread has ended holds its files until all threads have.
    _until(lambda: not is_locked(run))


def test_a_killed_worker_takes_its_ranks_along(make_run):
    run = make_run(*ENDLESS)
    worker = launch(run)
    _until(lambda: _progress(run))
    ranks = psutil.Process(worker.pid).children()
    assert len(ranks) == 2
    os.kill(worker.pid, signal.SIGKILL)
    _until(lambda: not any(map(_lives, ranks)))
    *_, last = follow(run, worker)
    assert last.reason == "failed"


def test_pause_and_stop_reach_all_ranks(make_run):
    run = make_run(*ENDLESS, "model.rsunet_norm=batch")
    worker = launch(run)
    _until(lambda: _progress(run))
    write_control(run, pause=True)
    _until(lambda: any(e.state == "paused" for e in _progress(run)))
    held = _progress(run)[-1].step
    write_control(run, pause=False)
    _until(lambda: _progress(run)[-1].step > held)
    worker.stop()
    *_, last = follow(run, worker)
    assert last.reason == "stopped"
    assert worker.wait(30)
    assert worker.returncode() == 0
    assert read_result(run) == last
    assert any(
        "of its own batch only" in event.message
        for event in read_events(run)
        if isinstance(event, Notice)
    )


def test_a_killed_rank_ends_the_job_and_is_the_result(make_run):
    run = make_run(*ENDLESS)
    worker = launch(run)
    _until(lambda: _progress(run))
    ranks = psutil.Process(worker.pid).children()
    ranks[1].kill()
    killed = time.monotonic()
    *_, last = follow(run, worker)
    assert time.monotonic() - killed < 5.0
    assert last.reason == "failed"
    assert "was killed (signal 9), probably out of memory" in last.message
    assert worker.wait(30)
    assert worker.returncode() == 1
    assert read_result(run) == last
    assert not any(map(_lives, ranks))


def _progress(run):
    return [event for event in read_events(run) if isinstance(event, Progress)]


def _lives(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _until(condition, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)
