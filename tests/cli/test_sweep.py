"""``volseg sweep``, with trials that are done at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from napari_volseg.cli import main, sweep
from napari_volseg.sweeps import SearchResult, TrialRow, read_sweep

DATA = ["--image", "em.h5:raw", "--label", "em.h5:labels"]
LR = "optimization.optimizer.lr"


@pytest.fixture(autouse=True)
def searched(monkeypatch):
    """Note the sweeps that are searched, and find one best trial in each."""
    found = []

    def search(wanted, *, should_stop, show, tell):
        found.append(wanted)
        folder = wanted.folder / "trials" / "trial-000"
        row = TrialRow(0, "completed", 0.75, 5, "done", {LR: 0.001}, folder)
        tell(row)
        complete = wanted.n_trials < 100
        return SearchResult((row,), row, wanted.folder / "best.yaml", complete)

    monkeypatch.setattr(sweep, "search", search)
    return found


def test_ranges_and_settings_come_from_the_command_line(em, searched, capsys, tmp_path):
    settings = [f"{LR}=log:1e-4:1e-2", "data.patch_size=[8,16,16]|[4,16,16]"]
    fixed = ["optimization.max_epochs=3"]
    arguments = ["sweep", "quick", *settings, *fixed, *DATA, "--trials", "7"]
    assert main([*arguments, "--name", "rates", "--metric", "ap"]) == 0
    (wanted,) = searched
    assert wanted.folder == tmp_path / "runs" / "rates"
    assert list(wanted.space) == [LR, "data.patch_size"]
    assert (wanted.n_trials, wanted.metric, wanted.prune) == (7, "ap", True)
    assert wanted.config["optimization"]["max_epochs"] == 3
    assert wanted.config["data"]["train_image"] == [f"{em}:raw"]
    out, err = capsys.readouterr()
    assert "trial 0 completed ap 0.7500" in err
    assert "best: trial 0" in out
    assert f"volseg train '{wanted.folder / 'best.yaml'}'" in out


@pytest.mark.usefixtures("em")
def test_a_file_of_ranges_and_the_command_line_add_up(searched):
    Path("space.yaml").write_text(
        f"{LR}: log:1e-5:1e-1\nmodel.filters: [[4, 8], [8, 16]]"
    )
    arguments = [
        "sweep",
        "quick",
        "--space",
        "space.yaml",
        f"{LR}=log:1e-4:1e-3",
        *DATA,
    ]
    assert main(arguments) == 0
    assert searched[0].space[LR].low == 1e-4
    assert searched[0].space["model.filters"].choices == ("[4, 8]", "[8, 16]")


@pytest.mark.usefixtures("em")
def test_a_sweep_is_gone_on_with_by_its_folder_or_name(searched, capsys, failure):
    main(
        ["sweep", "quick", f"{LR}=log:1e-4:1e-2", *DATA, "--name", "x", "--trials=100"]
    )
    assert "goes on" in capsys.readouterr().out
    assert main(["sweep", "x", "--trials", "4", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["complete"]
    assert answer["best"]["settings"] == {LR: 0.001}
    assert searched[1].folder == searched[0].folder
    assert read_sweep(searched[0].folder).n_trials == 4
    assert "leave everything out" in failure("sweep", "x", "model.filters=[4,8]")


@pytest.mark.usefixtures("em")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quick", *DATA], "nothing varies"),
        (["quick", f"{LR}=log:1e-4:1e-2"], "nothing to train on"),
        (["quick", f"{LR}=log:1:1e-2", *DATA], "must be the lower"),
        (["quick", f"{LR}=log:1e-4:1e-2", *DATA, "--trials", "0"], "--trials"),
        (["quik", f"{LR}=log:1e-4:1e-2", *DATA], "did you mean 'quick'"),
        (["quick", "--space", "none.yaml", *DATA], "not there"),
    ],
)
def test_what_can_be_mended_is_one_sentence(failure, tmp_path, arguments, message):
    assert message in failure("sweep", *arguments)
    assert not (tmp_path / "runs").exists()
