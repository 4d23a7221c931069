"""Real processes whose training is a few lines, everything else real."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from napari_volseg.errors import DataError
from napari_volseg.events import Finished, Progress, Started
from napari_volseg.failures import JobError
from napari_volseg.ranks import supervise

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")

RANK = """
import os, signal, sys, time
from pathlib import Path
from types import SimpleNamespace
from napari_volseg.events import Finished, Progress, Started
from napari_volseg.ranks import process
from napari_volseg.ranks.messages import event_line

def train(spec, tell, asked):
    rank, folder = spec["rank"], Path(spec["folder"])
    (folder / f"pid-{rank}").write_text(str(os.getpid()))
    state = SimpleNamespace(phase="busy", turn=0)
    process._Beat(tell, lambda: (state.phase, state.turn, 0.0)).start(0.1)
    if rank == 0:
        tell(event_line(Started("train", "cpu", 9)))
    for step in range(100_000):
        if rank == 0:
            tell(event_line(Progress(step, 100_000, 0.0)))
        if asked.is_set():
            (folder / "over").touch()
            tell(event_line(Finished("stopped", f"asked of {rank}")))
        if (folder / "over").exists():
            return
        time.sleep(0.02)
        ACTION

process._train = train
sys.exit(process.serve_rank())
"""

COLLECTIVE = """
import torch
from napari_volseg.distributed import join_by_file
group = join_by_file(rank, spec["size"], Path(spec["rendezvous"]), "cpu")
(folder / f"joined-{rank}").touch()
while rank == 1:
    time.sleep(1)
group.any(True)
"""


def _command(action="pass"):
    lines = action.strip().splitlines()
    return [sys.executable, "-c", RANK.replace("ACTION", "\n        ".join(lines))]


def _supervise(folder, action="pass", n_ranks=2, timeout=60.0, **options):
    return supervise(
        folder, {}, n_ranks, rank_timeout=timeout, command=_command(action), **options
    )


def _pids(folder):
    return [int(path.read_text()) for path in folder.glob("pid-*")]


def _gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def test_events_of_the_first_rank_come_and_a_stop_is_passed_on(tmp_path):
    asked = []
    events = []
    for event in _supervise(tmp_path, should_stop=lambda: bool(asked)):
        events.append(event)
        if isinstance(event, Progress):
            asked.append(True)
    assert isinstance(events[0], Started)
    assert events[-1] == Finished("stopped", "asked of 0")
    assert len(_pids(tmp_path)) == 2
    assert all(map(_gone, _pids(tmp_path)))


@pytest.mark.parametrize(
    ("action", "kind", "message"),
    [
        ("if rank == 1: 1 / 0", JobError, "process 2 of 2 failed: division by zero"),
        (
            "if rank == 1:\n    from napari_volseg.errors import DataError\n"
            "    raise DataError('paint some labels')",
            DataError,
            "^paint some labels$",
        ),
        (
            "if rank == 1: os.kill(os.getpid(), signal.SIGKILL)",
            JobError,
            r"2 of 2 was killed \(signal 9\), probably out of memory.*batch_size",
        ),
        (
            "if rank == 0: os.kill(os.getpid(), signal.SIGKILL)",
            JobError,
            r"process 1 of 2 was killed \(signal 9\)",
        ),
        ("if rank == 1: os.abort()", JobError, "2 of 2 crashed in native code"),
        ("if rank == 0: return", JobError, "process 1 of 2 ended with exit code 0"),
        (
            "if rank == 1: os._exit(3)",
            JobError,
            "process 2 of 2 ended with exit code 3",
        ),
    ],
    ids=["raise", "data", "kill", "kill first", "abort", "silence", "exit"],
)
def test_one_rank_ends_all_and_is_named(tmp_path, action, kind, message):
    with pytest.raises(kind, match=message):
        list(_supervise(tmp_path, action))
    assert all(map(_gone, _pids(tmp_path)))


def test_a_lost_peer_is_not_blamed_on_who_lost_it(tmp_path):
    action = """
from napari_volseg.distributed import PeerLostError
if rank == 0:
    while not (folder / "begun").exists():
        time.sleep(0.02)
    raise PeerLostError("Connection closed by peer")
(folder / "begun").touch()
time.sleep(0.5)
raise KeyError("the true cause")
"""
    with pytest.raises(JobError, match="the true cause"):
        list(_supervise(tmp_path, action))
    log = (tmp_path / "worker.log").read_text()
    assert "[rank 1] this process failed" in log
    assert log.count("Traceback") == 1


def test_garbage_on_the_pipe_is_logged_and_changes_nothing(tmp_path, caplog):
    action = """
if rank == 0 and step == 0:
    tell(b"\\xff garbage\\n{\\n")
    print("printed by a library", flush=True)
if rank == 0:
    asked.set()
"""
    events = list(_supervise(tmp_path, action))
    assert isinstance(events[-1], Finished)
    assert "garbage" in caplog.text
    assert "printed by a library" in (tmp_path / "worker.log").read_text()


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_stopped_rank_is_noticed_and_killed(tmp_path, stopped):
    action = f"if rank == {stopped}: os.kill(os.getpid(), signal.SIGSTOP)"
    with pytest.raises(JobError, match=f"{stopped + 1} of 2 gave no sign of life"):
        list(_supervise(tmp_path, action, timeout=1.0))
    assert all(map(_gone, _pids(tmp_path)))


def test_a_rank_that_hangs_in_a_step_is_noticed_and_killed(tmp_path):
    action = """
state.phase = "stepping" if rank == 1 else "waiting"
time.sleep(600)
"""
    with pytest.raises(JobError, match="2 of 2 did not end a step"):
        list(_supervise(tmp_path, action, timeout=1.0))
    assert all(map(_gone, _pids(tmp_path)))


def test_ranks_meet_on_this_machine_only_and_in_a_private_folder(tmp_path, monkeypatch):
    # What another launcher, or a crashed training, may have left.
    for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"):
        monkeypatch.setenv(name, "7")
    monkeypatch.setenv("MASTER_ADDR", "no.such.host.invalid")
    where = '(folder / "place").write_text(str(Path(spec["rendezvous"]).parent))'
    action = where + COLLECTIVE
    events = _supervise(tmp_path, action)
    next(events)
    _until(lambda: len(list(tmp_path.glob("joined-*"))) == 2)
    listening = [
        connection.laddr.ip
        for pid in _pids(tmp_path)
        for connection in psutil.Process(pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert set(listening) == {"127.0.0.1"}
    place = Path((tmp_path / "place").read_text())
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    events.close()
    assert not place.exists()
    assert all(map(_gone, _pids(tmp_path)))


def test_a_left_over_rendezvous_is_not_met_again(tmp_path):
    """Every training has a new folder, so two at once do not meet either."""
    action = """
if rank == 0:
    (folder / "place").write_text(spec["rendezvous"])
    asked.set()
"""
    places = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        list(_supervise(tmp_path / name, action))
        places.append((tmp_path / name / "place").read_text())
    assert places[0] != places[1]


SUPERVISOR = """
import json, sys
from pathlib import Path
from napari_volseg.ranks import supervise
folder, command = Path(sys.argv[1]), json.loads(sys.argv[2])
for event in supervise(folder, {}, 2, rank_timeout=60, command=command):
    pass
"""


@pytest.mark.parametrize("ignore_sigint", [False, True])
def test_a_killed_supervisor_leaves_nobody(tmp_path, ignore_sigint):
    """Also when one rank waits for the other in a collective."""
    before = signal.getsignal(signal.SIGINT)
    if ignore_sigint:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        command = json.dumps(_command(COLLECTIVE))
        supervisor = subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR, str(tmp_path), command]
        )
    finally:
        signal.signal(signal.SIGINT, before)
    with supervisor:
        _until(lambda: len(list(tmp_path.glob("joined-*"))) == 2)
        pids = _pids(tmp_path)
        assert len(pids) == 2
        assert not any(map(_gone, pids))
        supervisor.kill()
    _until(lambda: all(map(_gone, pids)))


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_killed_during_a_collective_ends_the_other(tmp_path, victim):
    events = _supervise(tmp_path, COLLECTIVE)
    next(events)
    _until(lambda: len(list(tmp_path.glob("joined-*"))) == 2)
    pids = _pids(tmp_path)
    os.kill(int((tmp_path / f"pid-{victim}").read_text()), signal.SIGKILL)
    with pytest.raises(JobError, match=f"process {victim + 1} of 2 was killed"):
        list(events)
    assert all(map(_gone, pids))


def test_a_program_that_is_not_there_is_no_silent_wait(tmp_path):
    with pytest.raises(JobError, match="ended with exit code 1"):
        list(
            supervise(
                tmp_path,
                {},
                2,
                rank_timeout=60,
                command=[sys.executable, "-c", "raise SystemExit('no engine')"],
            )
        )
