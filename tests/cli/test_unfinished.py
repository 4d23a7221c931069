"""Two predictions of one output, and one that was killed before it began."""

import os
import shutil
from pathlib import Path

import pytest

from napari_volseg import worker
from napari_volseg.cli import main, unfinished
from napari_volseg.cli import predict as command
from napari_volseg.runs import create_prediction

WAYS = [[], ["--resume"], ["--overwrite"]]


@pytest.mark.parametrize("more", WAYS)
@pytest.mark.parametrize("output", ["out.h5", "out.zarr"])
def test_a_running_prediction_is_left_alone(
    em, model, monkeypatch, capsys, output, more
):
    ask = ["predict", str(model), "em.h5:raw", "-o", output]
    engine, write = worker._predict, command.write_maps_file
    seen = []

    def ask_again():
        assert main([*ask, *more]) == 2
        seen.append(capsys.readouterr().err)

    def predict(folder, should_stop, resume=False, scheduler=None):
        ask_again()
        yield from engine(folder, should_stop, resume)
        (folder / "blocks").mkdir()
        (folder / "blocks" / "000000.done").touch()

    def slowly(*arguments, **named):
        ask_again()
        n_instances = write(*arguments, **named)
        ask_again()
        return n_instances

    monkeypatch.setattr(worker, "_predict", predict)
    monkeypatch.setattr(command, "write_maps_file", slowly)
    assert main(ask) == 0

    assert len(seen) == 3
    for text in seen:
        assert f"{output} is being made by process {os.getpid()} on " in text
        assert "are kept in" not in text
    assert sorted(os.listdir()) == ["em.h5", "model.safetensors", output]


@pytest.mark.parametrize("more", WAYS)
def test_a_kill_while_a_job_is_made_costs_nothing(
    em, model, monkeypatch, tmp_path, more
):
    class Killed(BaseException):
        """Takes the place of SIGKILL."""

    def make(model_path, image, source, folder, **named):
        (folder / "em.h5-raw").mkdir()
        (folder / "em.h5-raw" / "input.h5").touch()
        shutil.copytree(em.parent, tmp_path / "then")
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(command, "create_prediction", make)
        with pytest.raises(Killed):
            main(["predict", "model.safetensors", "em.h5:raw", "-o", "out.h5"])
    assert sorted(os.listdir()) == ["em.h5", "model.safetensors"]
    monkeypatch.chdir(tmp_path / "then")
    assert len(os.listdir()) == 3

    ask = ["predict", "model.safetensors", "em.h5:raw", "-o", "out.h5", *more]
    assert main(ask) == 0

    assert sorted(os.listdir()) == ["em.h5", "model.safetensors", "out.h5"]


def test_a_job_that_is_being_made_is_no_leftover(em, model, monkeypatch):
    def make(*arguments, **named):
        unfinished.remove_leftovers(Path("out.h5.unfinished"))
        return create_prediction(*arguments, **named)

    monkeypatch.setattr(command, "create_prediction", make)
    assert main(["predict", str(model), "em.h5:raw", "-o", "out.h5"]) == 0
    assert sorted(os.listdir()) == ["em.h5", "model.safetensors", "out.h5"]
