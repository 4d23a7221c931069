"""What ``volseg view`` finds to look at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from napari_volseg.errors import DataError
from napari_volseg.io import write_hdf5, write_volume_zarr
from napari_volseg.results import VolumeScores, write_scores
from napari_volseg.runs import TrainingPair, create_prediction, create_run
from napari_volseg.views import find_shown

SHAPE = (4, 8, 8)
NM = (30.0, 8.0, 8.0)


def maps() -> np.ndarray:
    return np.zeros((3, *SHAPE), np.uint8)


def labels() -> np.ndarray:
    return np.ones(SHAPE, np.int32)


@pytest.fixture
def em(tmp_path) -> str:
    write_hdf5(tmp_path / "em.h5", {"raw": np.zeros(SHAPE, np.uint8)}, NM)
    return f"{tmp_path / 'em.h5'}:raw"


def write_results(folder: Path, em: str, names: tuple[str, ...] = (".",)) -> Path:
    volumes = []
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        write_hdf5(folder / name / "predictions.h5", {"main": maps()}, NM)
        write_hdf5(folder / name / "segmentation.h5", {"main": labels()}, NM)
        volumes.append(VolumeScores(f"em {name}", name, 1, {}, em))
    write_scores(folder, folder / "model", volumes)
    return folder


def kinds(shown) -> list[tuple[str, str]]:
    return [(each.kind, Path(each.source.partition(":")[0]).name) for each in shown]


RESULT = [("image", "em.h5"), ("maps", "predictions.h5"), ("labels", "segmentation.h5")]


def test_results_are_shown_with_the_image_they_come_from(tmp_path, em):
    assert kinds(find_shown(write_results(tmp_path / "results", em))) == RESULT


def test_a_run_shows_the_results_of_its_test(tmp_path, em, cells, tiny_config):
    run = create_run(tiny_config, [TrainingPair(cells, None)], tmp_path / "runs")
    with pytest.raises(DataError, match="volseg test"):
        find_shown(run)
    write_results(run / "results", em)
    assert kinds(find_shown(run)) == RESULT


def test_an_image_that_has_gone_is_left_out(tmp_path, em):
    folder = write_results(tmp_path / "results", em)
    (tmp_path / "em.h5").unlink()
    assert kinds(find_shown(folder)) == RESULT[1:]


def test_of_several_volumes_one_is_chosen(tmp_path, em):
    folder = write_results(tmp_path / "results", em, ("a", "b"))
    with pytest.raises(DataError, match=r"2 volumes: choose one.*results/a"):
        find_shown(folder)
    assert find_shown(folder / "b")[0].name == "em b"


def test_the_folder_of_a_prediction(tmp_path, em, cells):
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"")
    image = replace(cells.image, data=np.zeros(SHAPE, np.uint8))
    job = create_prediction(model, image, em, tmp_path / "predictions")
    write_volume_zarr(job / "maps.zarr", {"maps": maps()}, NM)
    write_volume_zarr(job / "instances.zarr", {"instances": labels()}, NM)
    found = find_shown(job)
    assert [each.kind for each in found] == ["image", "maps", "labels"]


def test_the_output_of_a_prediction(tmp_path):
    path = tmp_path / "out.h5"
    write_hdf5(path, {"maps": maps(), "instances": labels()}, NM)
    assert {(each.kind, each.name) for each in find_shown(path)} == {
        ("maps", "maps"), ("labels", "instances"),
    }  # fmt: skip


def test_files_named_one_by_one_as_in_pytorch_connectomics(tmp_path, em):
    folder = write_results(tmp_path / "results", em)
    shown = find_shown(
        None, str(folder / "predictions.h5"), str(folder / "segmentation.h5")
    )
    assert kinds(shown) == RESULT[1:]
    assert kinds(find_shown(folder, em)) == RESULT


@pytest.mark.parametrize(
    ("image", "label", "message"),
    [
        (None, None, "nothing to look at"),
        ("none.h5", None, "none.h5"),
        (None, "none.h5", "none.h5"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(image, label, message):
    with pytest.raises(DataError, match=message):
        find_shown(None, image, label)


def test_other_places_are_refused(tmp_path):
    with pytest.raises(DataError, match="holds no result"):
        find_shown(tmp_path)
    with pytest.raises(DataError, match="is not there"):
        find_shown(tmp_path / "none")
