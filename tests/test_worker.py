"""The worker around an engine of a few lines; and once around the real one."""

import json
from pathlib import Path

import pytest

from napari_volseg import worker
from napari_volseg.config import load_config
from napari_volseg.errors import DataError
from napari_volseg.events import Finished, Notice, Progress, Started
from napari_volseg.runs import (
    EventLog,
    TrainingPair,
    create_run,
    is_locked,
    lock,
    read_config,
    read_events,
    read_result,
    write_control,
)

STARTED = Started("train", "cpu, float32", 2)
DONE = Finished("completed", "done", "model.safetensors", {"ap": 0.5})


@pytest.fixture
def run(tmp_path: Path, tiny_config, cells) -> Path:
    return create_run(tiny_config, [TrainingPair(cells, None)], tmp_path)


@pytest.fixture
def engine(monkeypatch):
    """Let the job be what a generator function does."""

    def use(train):
        monkeypatch.setattr(worker, "_train", train)

    return use


def _raise(error):
    def train(folder, resume, read_control):
        yield STARTED
        raise error

    return train


def test_every_event_is_shown_and_written_and_the_result_comes_last(run, engine):
    shown = []

    def train(folder, resume, read_control):
        assert is_locked(run)
        assert read_result(run) is None
        yield from (STARTED, Progress(1, 2, 0.1), DONE)

    engine(train)
    assert worker.run_job(run, show=shown.append) == DONE
    assert shown == [STARTED, Progress(1, 2, 0.1), DONE]
    assert read_events(run) == shown
    assert read_result(run) == DONE
    assert not is_locked(run)


def test_what_the_user_can_mend_is_passed_on_word_by_word(run, engine):
    engine(_raise(DataError("the labels of em are empty: paint some")))
    errors = []
    finished = worker.run_job(run, on_error=errors.append)
    assert finished == Finished("failed", "the labels of em are empty: paint some")
    assert isinstance(errors[0], DataError)
    assert read_result(run) == finished
    assert read_events(run)[-1] == finished


def test_a_defect_is_one_sentence_and_its_traceback_goes_to_the_log(run, engine):
    engine(_raise(ZeroDivisionError("division\nby zero")))
    finished = worker.run_job(run)
    assert finished.reason == "failed"
    assert "division by zero (ZeroDivisionError; details in" in finished.message
    assert "\n" not in finished.message
    log = (run / "worker.log").read_text()
    assert "Traceback" in log
    assert "ZeroDivisionError" in log


class OutOfMemoryError(RuntimeError):
    """Named like torch's, which is a RuntimeError too."""


@pytest.mark.parametrize("error", [OutOfMemoryError("CUDA"), MemoryError()])
def test_out_of_memory_says_what_needs_less(run, engine, error):
    engine(_raise(error))
    assert "system.training.batch_size" in worker.run_job(run).message


def test_a_full_disk_is_found_behind_another_error(run, engine):
    def train(folder, resume, read_control):
        yield STARTED
        try:
            raise OSError(28, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 64 vs 0") from None

    engine(train)
    message = worker.run_job(run).message
    assert "is full" in message
    assert "resume" in message


def test_an_engine_that_ends_without_a_word_has_failed(run, engine):
    engine(lambda folder, resume, read_control: iter([STARTED]))
    assert worker.run_job(run).reason == "failed"


def test_the_engine_is_closed_after_an_error(run, engine):
    closed = []

    def train(folder, resume, read_control):
        try:
            yield STARTED
            yield DONE
        finally:
            closed.append(True)

    engine(train)

    def show(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        worker.run_job(run, show=show)
    assert closed == [True]
    assert read_result(run) is None
    assert not is_locked(run)


def _until_stopped(folder, resume, read_control):
    yield STARTED
    for step in range(10_000):
        if read_control().stop:
            yield Finished("stopped", f"at {step}")
            return
        yield Progress(step, 10_000, 0.0)
    raise AssertionError("nobody heard the stop")


def test_both_ways_to_stop(run, engine):
    engine(_until_stopped)
    calls = []

    def stop_at_third_look():
        calls.append(1)
        return len(calls) >= 3

    assert worker.run_job(run, should_stop=stop_at_third_look).message == "at 2"
    write_control(run, stop=True, pause=True)
    assert worker.run_job(run).message == "at 0"


def test_lost_events_are_mentioned_once_and_do_not_end_the_job(
    run, engine, monkeypatch
):
    def train(folder, resume, read_control):
        yield from (STARTED, Progress(1, 2, 0.1), Progress(2, 2, 0.2), DONE)

    engine(train)
    monkeypatch.setattr(EventLog, "append", lambda self, event: False)
    shown = []
    assert worker.run_job(run, show=shown.append) == DONE
    notices = [e for e in shown if isinstance(e, Notice)]
    assert len(notices) == 1
    assert "free some space" in notices[0].message
    assert read_result(run) == DONE


def test_a_result_that_cannot_be_written_leaves_the_job_as_it_was(
    run, engine, monkeypatch
):
    engine(lambda folder, resume, read_control: iter([STARTED, DONE]))

    def full(folder, result):
        raise DataError("the disk is full")

    monkeypatch.setattr(worker, "write_result", full)
    assert worker.run_job(run) == DONE
    assert "the result could not be written" in (run / "worker.log").read_text()


def test_a_folder_in_use_is_not_touched(run, engine):
    engine(lambda folder, resume, read_control: iter([DONE]))
    with lock(run):
        before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.name != ".lock"}
        with pytest.raises(DataError, match="in use"):
            worker.run_job(run)
        assert before == {
            p: p.stat().st_mtime_ns for p in run.rglob("*") if p.name != ".lock"
        }


def test_leftovers_of_a_killed_process_are_swept_and_nothing_else(run, engine):
    engine(lambda folder, resume, read_control: iter([DONE]))
    (run / "checkpoints").mkdir()
    leftovers = [
        run / ".volseg-0123456789abcdef.json",
        run / "checkpoints" / ".volseg-0123456789abcdef.ckpt",
        run / "checkpoints" / ".last.ckpt.4711",
    ]
    kept = [run / ".hidden", run / "checkpoints" / "last.ckpt", run / "notes.txt"]
    for path in (*leftovers, *kept):
        path.write_text("")
    worker.run_job(run)
    assert not any(path.exists() for path in leftovers)
    assert all(path.exists() for path in kept)


def test_a_folder_that_cannot_be_written_is_named(run, engine, monkeypatch):
    engine(lambda folder, resume, read_control: iter([DONE]))

    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    with pytest.raises(DataError, match="cannot write in the folder"):
        worker.run_job(run)
    assert read_result(run) is None


def test_a_damaged_run_ends_with_a_result_that_says_so(run):
    (run / "data" / "pairs.json").write_text("{}")
    finished = worker.run_job(run)
    assert finished.reason == "failed"
    assert "pairs.json is damaged" in finished.message
    assert read_result(run) == finished


def test_the_real_engine_trains_and_goes_on(run):
    first = worker.run_job(run)
    assert first.reason == "completed", first.message
    assert (run / "model.safetensors").is_file()
    assert (run / "plan.json").is_file()
    assert isinstance(read_events(run)[0], Started)
    again = worker.run_job(run, resume=True)
    assert again.reason == "completed"
    resumed = [e for e in read_events(run) if isinstance(e, Started)][-1]
    assert resumed.step == 4


def test_an_automatic_run_stays_what_was_chosen_and_why(tmp_path, cells):
    small = ["data.patch_size=[8,16,16]", "model.filters=[4,8]"]
    short = ["optimization.max_epochs=1", "data.iter_num_per_epoch=4"]
    config = load_config("auto", [*small, *short, "system.device=cpu"])
    run = create_run(config, [TrainingPair(cells, None)], tmp_path)
    assert worker.run_job(run).reason == "completed"
    chosen = read_config(run)
    assert not chosen.automatic.enabled
    assert chosen.model.filters == (4, 8)
    choices = json.loads((run / "plan.json").read_text())["choices"]
    assert all(choice["reason"] for choice in choices)
    assert worker.run_job(run, resume=True).reason == "completed"
    assert read_config(run) == chosen
    assert json.loads((run / "plan.json").read_text())["choices"] == choices
