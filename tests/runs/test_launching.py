"""Real processes: a worker whose engine is a few lines, everything else real."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from napari_volseg.errors import DataError
from napari_volseg.events import Finished, Notice, Progress, Started
from napari_volseg.runs import (
    TrainingPair,
    Worker,
    attach,
    begin_session,
    create_run,
    follow,
    is_locked,
    launch,
    list_runs,
    read_events,
    write_control,
    write_result,
)

WORKER = """
import os, pathlib, signal, sys, time
from napari_volseg import worker
from napari_volseg.events import CheckpointSaved, Finished, Progress, Started

def train(folder, resume, read_control):
    yield Started("train", "cpu, float32", 1000)
    for step in range(100_000):
        if read_control().stop:
            yield Finished("stopped", f"stopped at step {step}")
            return
        yield Progress(step, 100_000, 0.0)
        %s
        time.sleep(0.02)

worker._train = train
sys.exit(worker.serve(pathlib.Path(sys.argv[1]), resume=False, with_parent=True))
"""

PARENT = """
import sys, time
from pathlib import Path
from napari_volseg.runs import launch
worker = launch(Path(sys.argv[1]), command=sys.argv[2:])
if "DETACH" in sys.argv:
    worker.detach()
print(worker.pid, flush=True)
time.sleep(600)
"""

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")


@pytest.fixture
def run(tmp_path: Path, tiny_config, cells) -> Path:
    return create_run(tiny_config, [TrainingPair(cells, None)], tmp_path / "runs")


@pytest.fixture
def start(run: Path) -> Iterator[Callable[..., Worker]]:
    workers = []

    def start_worker(action: str = "pass") -> Worker:
        workers.append(launch(run, command=_command(run, action)))
        return workers[-1]

    yield start_worker
    for worker in workers:
        worker.kill()


def _command(folder: Path, action: str = "pass") -> list[str]:
    return [sys.executable, "-c", WORKER % action, str(folder)]


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def _gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _wait_for_steps(folder: Path) -> None:
    _until(lambda: any(isinstance(e, Progress) for e in read_events(folder)))


def test_events_arrive_and_a_stop_ends_the_run(run, start):
    worker = start()
    seen = []
    for event in follow(run, worker):
        seen.append(event)
        if isinstance(event, Progress):
            worker.stop()
    assert isinstance(next(e for e in seen if e is not None), Started)
    assert isinstance(seen[-1], Finished)
    assert seen[-1].reason == "stopped"
    assert sum(isinstance(e, Finished) for e in seen) == 1
    assert worker.returncode() == 0
    assert not is_locked(run)


def test_a_program_parts_from_a_detached_worker_in_silence(run):
    program = PARENT.replace("time.sleep(600)", "")
    command = [sys.executable, "-W", "error", "-c", program, str(run)]
    done = subprocess.run(
        [*command, *_command(run), "DETACH"],
        capture_output=True,
        text=True,
        check=True,
    )
    worker = psutil.Process(int(done.stdout))
    try:
        assert done.stderr == ""
        _wait_for_steps(run)
        assert worker.is_running()
    finally:
        worker.kill()


def test_a_worker_outlives_the_thread_that_started_it(run, start):
    """A signal tied to the parent's thread would end it with that."""
    found = []
    thread = threading.Thread(target=lambda: found.append(start()))
    thread.start()
    thread.join()
    (worker,) = found
    _wait_for_steps(run)
    assert worker.alive
    worker.stop()
    *_, last = follow(run, worker)
    assert last.reason == "stopped"


def test_a_worker_that_does_not_begin_is_told(run, monkeypatch):
    monkeypatch.setattr("napari_volseg.runs.following._SLOW_START", 0.0)
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    worker = launch(run, command=command)
    told = next(e for e in follow(run, worker) if isinstance(e, Notice))
    assert told.level == "warning"
    assert "has not begun" in told.message
    worker.kill()


@posix
def test_sigterm_asks_for_a_stop(run, start):
    worker = start()
    _wait_for_steps(run)
    os.kill(worker.pid, signal.SIGTERM)
    *_, last = follow(run, worker)
    assert last.reason == "stopped"
    assert worker.returncode() == 0


@posix
def test_a_killed_worker_is_explained_and_the_lock_is_free(run, start):
    worker = start("os.kill(os.getpid(), signal.SIGKILL)")
    *_, last = follow(run, worker)
    assert last.reason == "failed"
    assert "probably out of memory" in last.message
    assert not is_locked(run)
    (summary,) = list_runs(run.parent)
    assert summary.state == "interrupted"


@posix
def test_a_native_crash_is_explained_and_a_checkpoint_offered(run, start):
    (run / "checkpoints").mkdir()
    action = "open(folder / 'checkpoints' / 'last.ckpt', 'wb').close(); os.abort()"
    *_, last = follow(run, start(action))
    assert "crashed in native code" in last.message
    assert "Resume continues from the last checkpoint" in last.message


def test_the_last_line_of_the_log_explains_an_early_end(run):
    code = "print('hello'); raise SystemExit('no such file: libfoo')"
    worker = launch(run, command=[sys.executable, "-c", code])
    *_, last = follow(run, worker)
    assert last.reason == "failed"
    assert "exit code 1: no such file: libfoo" in last.message


def test_exit_code_zero_is_no_success(run):
    worker = launch(run, command=[sys.executable, "-c", ""])
    *_, last = follow(run, worker)
    assert last.reason == "failed"
    assert "exit code 0" in last.message


def test_a_second_worker_is_refused(run, start):
    start()
    _wait_for_steps(run)
    with pytest.raises(DataError, match="in use by process"):
        launch(run)
    # Two that start at the same moment: the lock decides.
    loser = subprocess.run(
        [sys.executable, "-m", "napari_volseg", "worker", str(run), "--with-parent"],
        stdin=subprocess.PIPE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert loser.returncode != 0
    assert attach(run) is not None


@posix
@pytest.mark.parametrize("ignore_sigint", [False, True])
def test_a_killed_parent_takes_its_worker_along(run, ignore_sigint):
    before = signal.getsignal(signal.SIGINT)
    if ignore_sigint:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        parent = _start_parent(run)
    finally:
        signal.signal(signal.SIGINT, before)
    with parent:
        pid = int(parent.stdout.readline())
        _wait_for_steps(run)
        assert not _gone(pid)
        parent.kill()
    _until(lambda: _gone(pid) and not is_locked(run))


@posix
def test_a_detached_worker_lives_on_and_is_found_again(run):
    with _start_parent(run, "DETACH") as parent:
        pid = int(parent.stdout.readline())
        _wait_for_steps(run)
        parent.kill()
    n_steps = len(read_events(run))
    _until(lambda: len(read_events(run)) > n_steps + 5)
    worker = attach(run)
    assert worker is not None
    assert worker.pid == pid
    assert list_runs(run.parent)[0].state == "running"
    worker.stop()
    *_, last = follow(run)
    assert last.reason == "stopped"
    _until(lambda: _gone(pid))
    assert attach(run) is None


@posix
def test_what_a_worker_started_goes_with_it(run):
    action = (
        "step or print('child', __import__('subprocess').Popen(['sleep', '600']).pid, "
        "flush=True)"
    )
    with _start_parent(run, action=action) as parent:
        worker_pid = int(parent.stdout.readline())
        _until(lambda: "child" in (run / "worker.log").read_text())
        child = int((run / "worker.log").read_text().split("child ")[1].split()[0])
        parent.kill()
    _until(lambda: _gone(worker_pid) and _gone(child))


def test_stop_kills_a_worker_that_does_not_listen(run):
    code = "import time; print('up', flush=True); time.sleep(600)"
    worker = launch(run, command=[sys.executable, "-c", code])
    _until(lambda: "up" in (run / "worker.log").read_text())
    worker.stop(timeout=0.1)
    assert not worker.alive
    *_, last = follow(run, worker)
    assert "did not stop" in last.message


def test_following_begins_at_the_end_when_asked(run, start):
    worker = start()
    _wait_for_steps(run)
    events = follow(run, worker, from_start=False)
    first = next(e for e in events if e is not None)
    assert not isinstance(first, Started)
    worker.kill()
    assert isinstance(list(events)[-1], Finished)


def test_following_a_finished_run_ends_at_once(run):
    write_result(run, Finished("completed", "done"))
    assert list(follow(run)) == [Finished("completed", "done")]


def test_following_a_run_that_nobody_works_on_says_so(run):
    (only,) = follow(run)
    assert only.reason == "failed"
    assert "ended without saying why" in only.message


def test_a_resumed_session_starts_clean_and_keeps_the_history(run):
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "last.ckpt").write_bytes(b"")
    (run / "events.jsonl").write_text('{"event": "Notice", "message": "old"}\n')
    write_result(run, Finished("stopped", "old"))
    write_control(run, stop=True)
    with pytest.raises(DataError, match="trained already"):
        begin_session(run)
    begin_session(run, resume=True)
    assert not (run / "result.json").exists()
    assert not (run / "control.json").exists()
    assert read_events(run) == [Notice("old")]


def test_a_folder_that_is_no_job_is_refused(tmp_path):
    with pytest.raises(DataError, match="neither a run nor a prediction"):
        launch(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_modules_in_a_run_folder_are_not_imported(run):
    marker = run / "was-run"
    for name in ("numpy", "napari_volseg", "json"):
        (run / f"{name}.py").write_text(f"open({str(marker)!r}, 'w').close()")
    (run / "config.yaml").write_text("data: [")
    *_, last = follow(run, launch(run))
    assert last.reason == "failed"
    assert "config.yaml" in last.message
    assert not marker.exists()


def test_a_huge_log_is_shortened(run):
    log = run / "worker.log"
    log.write_bytes(b"x" * (9 * 2**20))
    launch(run, command=[sys.executable, "-c", ""]).wait()
    assert log.stat().st_size <= 5 * 2**20


def test_the_owner_is_written_down(run, start):
    worker = start()
    _wait_for_steps(run)
    owner = json.loads((run / "owner.json").read_text())
    assert owner["pid"] == worker.pid


def _start_parent(
    run: Path, *flags: str, action: str = "pass"
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PARENT, str(run), *_command(run, action), *flags],
        stdout=subprocess.PIPE,
        text=True,
    )


UNGUARDED = """
import sys
from pathlib import Path
from napari_volseg.runs import follow, launch, write_control
print("the script runs", flush=True)
folder = Path(sys.argv[1])
worker = launch(folder, command=sys.argv[2:])
for event in follow(folder, worker):
    if event is not None:
        write_control(folder, stop=True)
        last = event
print(type(last).__name__, flush=True)
"""


def test_a_script_without_a_main_guard_runs_once(tmp_path, cells, tiny_config):
    """Workers that are spawned by multiprocessing would run it again."""
    folder = create_run(tiny_config, [TrainingPair(cells, None)], tmp_path)
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    worker = (sys.executable, "-c", WORKER % "pass", str(folder))
    done = subprocess.run(
        [sys.executable, str(script), str(folder), *worker],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines() == ["the script runs", "Finished"]
