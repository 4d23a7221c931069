"""``volseg predict --resume``: what was finished is found again."""

import os
from pathlib import Path

import pytest

from napari_volseg import worker
from napari_volseg.cli import main

ARGUMENTS = ["em.h5:raw", "-o", "out.h5"]


@pytest.fixture
def killed(em, model, monkeypatch, capsys):
    """A prediction that ended after its first block."""
    engine = worker._predict

    def fail(folder, should_stop, resume=False, scheduler=None):
        (folder / "blocks").mkdir()
        (folder / "blocks" / "000000.done").touch()
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(worker, "_predict", fail)
        assert main(["predict", str(model), *ARGUMENTS]) == 1
    assert "go on with --resume" in capsys.readouterr().err
    asked = []

    def note(folder, should_stop, resume=False, scheduler=None):
        asked.append((folder, resume))
        return engine(folder, should_stop, resume)

    monkeypatch.setattr(worker, "_predict", note)
    return asked


def test_a_prediction_goes_on_and_leaves_only_the_output(killed, model, capsys):
    assert (Path("out.h5.unfinished") / "em.h5-raw" / "request.json").exists()
    assert main(["predict", str(model), *ARGUMENTS, "--resume"]) == 0
    assert [resume for _, resume in killed] == [True]
    assert sorted(os.listdir()) == ["em.h5", "model.safetensors", "out.h5"]
    capsys.readouterr()
    assert main(["predict", str(model), *ARGUMENTS, "--resume"]) == 0
    assert "is complete" in capsys.readouterr().err
    assert len(killed) == 1


def test_nothing_is_thrown_away_unasked(killed, model, capsys):
    assert main(["predict", str(model), *ARGUMENTS]) == 2
    assert "--resume, or start anew with --overwrite" in capsys.readouterr().err
    other = ["inference.overlap=0.5", "--resume"]
    assert main(["predict", str(model), *ARGUMENTS, *other]) == 2
    assert "another settings of inference" in capsys.readouterr().err
    assert not killed
    assert main(["predict", str(model), *ARGUMENTS, "--overwrite"]) == 0
    assert [resume for _, resume in killed] == [False]
    assert not Path("out.h5.unfinished").exists()


def test_a_folder_of_the_users_is_not_touched(em, model, capsys):
    Path("out.h5.unfinished").mkdir()
    Path("out.h5.unfinished/thesis.txt").write_text("all of it")
    assert main(["predict", str(model), *ARGUMENTS]) == 2
    assert "is in the way" in capsys.readouterr().err
    assert Path("out.h5.unfinished/thesis.txt").read_text() == "all of it"
