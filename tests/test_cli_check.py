"""``volseg check`` on files, and the commands that napari starts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_volseg.cli import main
from napari_volseg.io import read_labels, write_hdf5
from napari_volseg.volume import LabelledVolume


@pytest.fixture
def em(tmp_path: Path, cells: LabelledVolume) -> Path:
    """A file whose object 1 has a fragment of two voxels."""
    labels = cells.labels_ZYX.copy()
    labels[2, 20, 20:22] = 1
    path = tmp_path / "em.h5"
    arrays = {"raw": cells.image.data, "labels": labels}
    write_hdf5(path, arrays, cells.image.voxel_size)
    return path


def check(em: Path, *options: Any) -> int:
    sources = ["--image", f"{em}:raw", "--label", f"{em}:labels"]
    return main(["check", *sources, *map(str, options)])


def test_findings_are_printed_with_their_place(em: Path, capsys: Any) -> None:
    assert check(em) == 1
    text = capsys.readouterr().out
    assert "fragment   z=2 y=20 x=2" in text
    assert "a piece of 1 has only 2 voxels; remove it" in text
    assert text.splitlines()[-1] == "1 tiny fragment"


def test_json_has_every_field(em: Path, capsys: Any) -> None:
    assert check(em, "--json", "--all") == 1
    answer = json.loads(capsys.readouterr().out)
    first = answer["findings"][0]
    assert first["kind"] == "fragment"
    assert first["new_label"] == 0
    assert first["position"][:2] == [2, 20]


def test_a_mended_copy_is_written_and_the_input_stays(
    em: Path, tmp_path: Path, capsys: Any, cells: LabelledVolume
) -> None:
    before = em.read_bytes()
    out = tmp_path / "mended.h5"
    assert check(em, "--fix", out) == 1
    assert em.read_bytes() == before
    assert (read_labels(str(out)) == cells.labels_ZYX).all()
    assert "mended 1" in capsys.readouterr().out
    sources = ["--image", f"{em}:raw", "--label", str(out)]
    assert main(["check", *sources]) == 0


def test_a_file_is_replaced_only_when_asked(
    em: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "thesis.h5"
    out.write_text("all of it")
    assert check(em, "--fix", out) == 2
    assert "choose another --fix, or --overwrite" in capsys.readouterr().err
    assert out.read_text() == "all of it"
    assert check(em, "--fix", out, "--overwrite") == 1
    assert read_labels(str(out)).any()


def test_only_chosen_kinds_and_rows(em: Path, tmp_path: Path, capsys: Any) -> None:
    assert check(em, "--kind", "hole") == 0
    assert "nothing to mend" in capsys.readouterr().out
    out = tmp_path / "mended.h5"
    check(em, "--fix", out, "--rows", "")
    assert (read_labels(str(out)) == read_labels(f"{em}:labels")).all()


def test_a_background_id_stays_in_the_copy(
    tmp_path: Path, cells: LabelledVolume
) -> None:
    painted = cells.labels_ZYX.copy()
    painted[2, 20, 20:22] = 1
    painted[0, 20:30, 20:30] = 99
    path = tmp_path / "em.h5"
    arrays = {"raw": cells.image.data, "labels": painted}
    write_hdf5(path, arrays, cells.image.voxel_size)
    out = tmp_path / "out.h5"
    options = ["--annotated", "painted_voxels", "--background-id", 99, "--fix", out]
    check(path, *options)
    assert (read_labels(str(out)) == painted)[0].all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--kind", "odd"], "none of"),
        (["--fix", "em.h5"], "write over an input"),
        (["--fix", "em.tif"], "must end in .h5"),
        (["--min-size", "0"], "must be 1 or above"),
        (["--mask", "absent.h5"], "does not exist"),
    ],
)
def test_what_cannot_work_is_refused(
    em: Path, options: list[str], words: str, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(em.parent)
    before = em.read_bytes()
    assert check(em, *options) == 2
    assert words in capsys.readouterr().err
    assert em.read_bytes() == before


def test_a_helper_ends_with_who_started_it(em: Path) -> None:
    command = [sys.executable, "-m", "napari_volseg", "helper", "retune"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL}
    with subprocess.Popen(command, **pipes) as process:  # type: ignore[call-overload]
        process.stdin.close()
        assert process.wait(60) in (0, 1)


def test_a_helper_passes_on_options_and_exit_code(em: Path) -> None:
    sources = ["--image", f"{em}:raw", "--label", f"{em}:labels", "--json"]
    command = [sys.executable, "-m", "napari_volseg", "helper", "check", *sources]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        answer = json.loads(process.stdout.read())
        assert process.wait(60) == 1
    assert len(answer["findings"]) == 1


def test_a_plan_is_told_without_training(tmp_path: Path, cells: Any) -> None:
    from napari_volseg.config import build_config
    from napari_volseg.runs import TrainingPair, create_run

    tree = {
        "data": {"patch_size": [8, 16, 16]},
        "model": {"filters": [4, 8]},
        "system": {"device": "cpu"},
    }
    pair = TrainingPair(cells, None)
    folder = create_run(build_config(tree), [pair], tmp_path, "run")
    command = [sys.executable, "-m", "napari_volseg", "plan", str(folder)]
    done = subprocess.run(command, capture_output=True, check=True)
    plan = json.loads(done.stdout)
    assert plan["compute"]["device"] == "cpu"
    assert plan["memory_bytes"] > 0
    assert not (folder / "events.jsonl").exists()
    assert np.prod(plan["patch_size"]) > 0
