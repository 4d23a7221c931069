import json
import os
from pathlib import Path

import pytest

from napari_volseg.events import Finished, Progress, Validated
from napari_volseg.runs import (
    EventLog,
    RunLister,
    TrainingPair,
    create_run,
    default_runs_dir,
    list_runs,
    lock,
    newest_model,
    write_result,
)


@pytest.fixture
def new_run(tmp_path, tiny_config, cells):
    def create(name: str, created: str = "") -> Path:
        folder = create_run(tiny_config, [TrainingPair(cells, None)], tmp_path, name)
        path = folder / "data" / "pairs.json"
        table = json.loads(path.read_text())
        path.write_text(json.dumps(table | {"created": created or table["created"]}))
        return folder

    return create


def test_no_folder_means_no_runs(tmp_path):
    assert list_runs(tmp_path / "nowhere") == []
    assert newest_model(tmp_path / "nowhere") is None


def test_runs_come_newest_first_and_other_folders_not_at_all(new_run, tmp_path):
    new_run("b", "2026-01-01T00:00:00+00:00")
    new_run("a", "2026-03-01T00:00:00+00:00")
    new_run("c", "2026-02-01T00:00:00+00:00")
    (tmp_path / "notes").mkdir()
    (tmp_path / "file.txt").write_text("")
    assert [run.name for run in list_runs(tmp_path)] == ["a", "c", "b"]


def test_states(new_run, tmp_path):
    folder = new_run("x")

    def state() -> str:
        return list_runs(tmp_path)[0].state

    assert state() == "new"
    with lock(folder):
        assert state() == "running"
    EventLog(folder).append(Progress(3, 10, 1.0))
    assert state() == "interrupted"
    write_result(folder, Finished("converged", "done"))
    assert state() == "converged"
    (folder / "result.json").write_text("{")
    assert state() == "failed"


def test_step_score_and_files(new_run, tmp_path):
    folder = new_run("x")
    log = EventLog(folder)
    log.append(Validated(10, {"f1_50": 0.5}, best=True))
    log.append(Validated(20, {"f1_50": 0.8}, best=True))
    log.append(Validated(30, {"f1_50": 0.7}, best=False))
    log.append(Progress(35, 40, 1.0))
    with (folder / "events.jsonl").open("a") as file:
        file.write('{"event": "Prog')
    (folder / "model.safetensors").write_bytes(b"")
    (run,) = list_runs(tmp_path)
    assert (run.step, run.score, run.preset) == (35, 0.8, "tiny")
    write_result(folder, Finished("completed", "done", metrics={"f1_50": 0.9}))
    assert list_runs(tmp_path)[0].score == 0.9
    assert run.has_model
    assert not run.has_checkpoint


def test_the_best_score_is_found_however_long_ago(new_run, tmp_path):
    log = EventLog(new_run("x"))
    log.append(Validated(10, {"f1_50": 0.8}, best=True))
    for step in range(11, 600):
        log.append(Progress(step, 1000, 1.0))
    assert (tmp_path / "x" / "events.jsonl").stat().st_size > 2**16

    (run,) = list_runs(tmp_path)

    assert (run.step, run.score) == (599, 0.8)


@pytest.mark.parametrize("name", ["cells: 2nd try", "#1", "many words " * 20])
def test_any_name_of_a_preset_is_read(name, cells, tiny_config, tmp_path):
    config = tiny_config.model_copy(update={"experiment_name": name.strip()})
    create_run(config, [TrainingPair(cells, None)], tmp_path, "x")

    assert list_runs(tmp_path)[0].preset == name.strip()


def test_a_damaged_run_is_listed_and_hides_no_other(new_run, tmp_path):
    new_run("good")
    bad = new_run("bad")
    (bad / "config.yaml").write_text("{[")
    (bad / "data" / "pairs.json").write_text("[]")
    assert {run.name for run in list_runs(tmp_path)} == {"good", "bad"}


def test_newest_model(new_run, tmp_path):
    paths = [new_run(name) / "model.safetensors" for name in "abc"]
    for path, age in zip(paths, (10, 30, 20), strict=True):
        path.write_bytes(b"")
        os.utime(path, (age, age))
    assert newest_model(tmp_path) == paths[1]


def test_the_folder_of_runs_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("VOLSEG_RUNS", str(tmp_path))
    assert default_runs_dir() == tmp_path
    monkeypatch.delenv("VOLSEG_RUNS")
    assert default_runs_dir() == Path.home() / "volseg-runs"


def test_a_lister_reads_only_what_has_changed(new_run, tmp_path, monkeypatch):
    from napari_volseg.runs import listing

    first, second = new_run("a"), new_run("b")
    read = []
    summarise = listing._summarise

    def count(folder):
        read.append(folder.name)
        return summarise(folder)

    monkeypatch.setattr(listing, "_summarise", count)
    runs = RunLister(tmp_path)
    assert [run.state for run in runs()] == ["new", "new"]
    assert runs() == list_runs(tmp_path)
    read.clear()
    runs()
    assert read == []
    EventLog(first).append(Progress(3, 10, 1.0))
    assert {run.name: run.step for run in runs()} == {"a": 3, "b": 0}
    assert read == ["a"]
    with lock(second):
        assert {run.name: run.state for run in runs()}["b"] == "running"
    (second / "config.yaml").unlink()
    assert [run.name for run in runs()] == ["a"]
