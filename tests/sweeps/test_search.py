import csv
import sys

import pytest

from napari_volseg.config import load_config
from napari_volseg.errors import DataError
from napari_volseg.runs import list_runs, lock, read_config, read_events
from napari_volseg.sweeps import read_sweep, search

LR = "optimization.optimizer.lr"


def table(sweep) -> list[dict[str, str]]:
    text = (sweep.folder / "trials.csv").read_text("utf-8")
    return list(csv.DictReader(text.splitlines()))


def test_every_trial_is_a_run_with_its_settings_and_one_seed(make_sweep, start):
    sweep = make_sweep(n_trials=3)
    result = search(sweep, start=start)
    assert result.complete
    assert [row.state for row in result.rows] == ["completed"] * 3
    runs = sorted(run.folder for run in list_runs(sweep.folder / "trials"))
    assert [run.name for run in runs] == ["trial-000", "trial-001", "trial-002"]
    configs = [read_config(run) for run in runs]
    rates = [config.optimization.optimizer.lr for config in configs]
    assert rates == [row.settings[LR] for row in result.rows]
    assert len(set(rates)) == 3
    assert all(1e-5 <= rate <= 1e-1 for rate in rates)
    assert {config.system.seed for config in configs} == {0}


def test_the_best_trial_is_named_and_can_be_trained(make_sweep, start):
    sweep = make_sweep(n_trials=4)
    result = search(sweep, start=start)
    best = max(result.rows, key=lambda row: row.score)
    assert result.best == best
    config = load_config(sweep.folder / "best.yaml")
    assert config.optimization.optimizer.lr == best.settings[LR]
    assert config.data.train_image == read_config(best.folder).data.train_image


def test_a_metric_that_should_be_small_is_made_small(make_sweep, start):
    result = search(make_sweep(n_trials=3, metric="loss"), start=start)
    assert result.best == min(result.rows, key=lambda row: row.score)


def test_the_table_has_a_row_for_each_trial(make_sweep, start):
    sweep = make_sweep("model.filters=[4,8]|[8,16]", f"{LR}=log:1e-4:1e-2", n_trials=2)
    search(sweep, start=start)
    rows = table(sweep)
    assert [row["trial"] for row in rows] == ["0", "1"]
    assert {row["model.filters"] for row in rows} <= {"[4, 8]", "[8, 16]"}
    assert all(0 < float(row["f1_50"]) <= 1 and row["step"] == "5" for row in rows)


def test_a_trial_that_falls_behind_is_stopped(make_sweep, start):
    sweep = make_sweep(behaviour="lag", n_trials=10)
    result = search(sweep, start=start)
    pruned = [row for row in result.rows if row.state == "pruned"]
    assert pruned
    good = [row.score for row in result.rows if row.state == "completed"]
    assert max(row.score for row in pruned) < max(good)
    steps = {max(e.step for e in read_events(row.folder) if hasattr(e, "step"))
             for row in pruned}  # fmt: skip
    assert max(steps) < 5


def test_without_pruning_all_go_to_the_end(make_sweep, start):
    result = search(make_sweep(n_trials=6, prune=False), start=start)
    assert {row.step for row in result.rows} == {5}


def test_a_stopped_sweep_goes_on_where_it_was(make_sweep, start):
    sweep = make_sweep(behaviour="hang", n_trials=2)
    begun = []
    result = search(
        sweep, start=start, show=begun.append, should_stop=lambda: len(begun) > 7
    )
    assert not result.complete
    assert [row.state for row in result.rows] == ["interrupted"]
    again = search(read_sweep(sweep.folder, 1), start=start)
    assert again.complete
    (row,) = again.rows
    assert row.state == "completed"
    assert row.settings == result.rows[0].settings
    assert row.folder == result.rows[0].folder
    steps = [e.step for e in read_events(row.folder) if type(e).__name__ == "Started"]
    assert steps == [0, 4]


def test_a_killed_sweep_goes_on_where_it_was(make_sweep, start):
    sweep = make_sweep(behaviour="hang", n_trials=1)
    workers = []

    def start_and_note(folder, resume):
        workers.append(start(folder, resume))
        return workers[-1]

    class Killed(BaseException):
        pass

    def kill(event):
        if type(event).__name__ == "Validated" and event.step == 4:
            raise Killed

    with pytest.raises(Killed):
        search(sweep, start=start_and_note, show=kill)
    assert not workers[0].alive
    result = search(read_sweep(sweep.folder), start=start)
    assert [row.state for row in result.rows] == ["completed"]


def test_a_second_process_is_kept_out(make_sweep, start):
    sweep = make_sweep(n_trials=1)
    with lock(sweep.folder), pytest.raises(DataError, match=r"in use|is used|another"):
        search(sweep, start=start)


def test_a_sweep_whose_trials_all_fail_ends_early(make_sweep, start):
    sweep = make_sweep(behaviour="crash", n_trials=10)
    with pytest.raises(DataError, match=r"3 trials in a row failed.*no such luck"):
        search(sweep, start=start)
    assert [row["state"] for row in table(sweep)] == ["failed"] * 3


def test_more_trials_can_be_asked_for_later(make_sweep, start):
    sweep = make_sweep(n_trials=1)
    search(sweep, start=start)
    result = search(read_sweep(sweep.folder, 3), start=start)
    assert len(result.rows) == 3
    assert len({row.settings[LR] for row in result.rows}) == 3
    assert read_sweep(sweep.folder).n_trials == 3


def test_without_optuna_a_sentence_says_what_to_install(make_sweep, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(DataError, match=r"napari-volseg\[sweep\]"):
        search(make_sweep())


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 99}', "\0"])
def test_a_damaged_sweep_is_refused(make_sweep, text):
    sweep = make_sweep()
    (sweep.folder / "sweep.json").write_text(text)
    with pytest.raises(DataError, match=r"sweep\.json"):
        read_sweep(sweep.folder)
