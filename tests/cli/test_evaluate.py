"""Comparing segmentations of any size."""

import json

import numpy as np
import pytest
import tifffile
import zarr

from napari_volseg.cli import main
from napari_volseg.io import LazyArray
from napari_volseg.metrics import evaluate


@pytest.fixture
def largest(monkeypatch):
    """Blocks of about 2000 voxels; how many were read at once."""
    monkeypatch.setattr("napari_volseg.cli.evaluate.MAX_VOXELS", 2000)
    read, sizes = LazyArray.__getitem__, [0]

    def measured(self, key):
        part = read(self, key)
        sizes.append(part.size)
        return part

    monkeypatch.setattr(LazyArray, "__getitem__", measured)
    return lambda: max(sizes)


def test_files_of_different_chunks_and_a_mask(em, cells, rng, capsys, largest):
    truth = cells.labels_ZYX
    pred = np.roll(truth, 1, 2).astype(np.uint64) * np.uint64(2**57)
    annotated = rng.random(truth.shape) < 0.8
    zarr.create_array("pred.zarr", data=pred, chunks=(5, 7, 40))
    zarr.create_array("mask.zarr", data=annotated, chunks=(12, 16, 16))
    options = ["--mask", "mask.zarr", "--min-size", "205", "--json"]

    assert main(["evaluate", "pred.zarr", "em.h5:labels", *options]) == 0

    scores = json.loads(capsys.readouterr().out)
    assert scores == evaluate(pred, truth, annotated, min_size=205)
    assert 0 < scores["ap"] < 1
    assert scores != evaluate(pred, truth, annotated)
    assert largest() <= 8000 < truth.size


@pytest.mark.parametrize("part", ["", "[2:11:2,::-1]"])
def test_pages_of_a_tiff_beside_an_array_and_a_part_of_both(
    em, cells, capsys, largest, part
):
    truth = cells.labels_ZYX.astype(np.uint16)
    pred = np.where(np.roll(truth, 1, 1) > 0, truth + 5, 0).astype(np.uint16)
    tifffile.imwrite("pred.tif", pred, compression="zlib")
    np.save("truth.npy", truth.astype(float))

    assert main(["evaluate", f"pred.tif{part}", f"truth.npy{part}", "--json"]) == 0

    scores = json.loads(capsys.readouterr().out)
    if part:
        pred, truth = pred[2:11:2, ::-1], truth[2:11:2, ::-1]
    assert scores == evaluate(pred, truth)
    assert largest() <= 1600  # one page


def test_chunks_that_are_missing_are_said(em, cells, capsys):
    zarr.create_array("pred.zarr", data=cells.labels_ZYX + 1, chunks=(5, 7, 40))
    min(p for p in em.with_name("pred.zarr").rglob("1/*/*") if p.is_file()).unlink()

    assert main(["evaluate", "pred.zarr", "em.h5:labels", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["n_true"] == cells.labels_ZYX.max()
    assert err.startswith("1 chunk is not in the folder of")


def test_a_damaged_block_is_named(em, cells, capsys):
    zarr.create_array("pred.zarr", data=cells.labels_ZYX, chunks=(5, 7, 40))
    chunk = max(p for p in em.with_name("pred.zarr").rglob("1/*/*") if p.is_file())
    chunk.write_bytes(b"?")

    assert main(["evaluate", "pred.zarr", "em.h5:labels"]) == 2
    assert "pred.zarr cannot be read" in capsys.readouterr().err


def test_a_mask_without_a_voxel_is_refused(em, cells, failure):
    np.save("mask.npy", np.zeros(cells.labels_ZYX.shape, np.uint8))
    labels = ["em.h5:labels", "em.h5:labels"]
    assert "mask.npy is 0 everywhere" in failure(
        "evaluate", *labels, "--mask", "mask.npy", "--json"
    )


def test_that_nothing_was_compared_is_said_beside_the_scores(em, cells, capsys):
    np.save("mask.npy", cells.labels_ZYX == 0)
    labels = ["em.h5:labels", "em.h5:labels"]
    for more in (["--min-size", "100000"], ["--mask", "mask.npy"]):
        assert main(["evaluate", *labels, *more, "--json"]) == 0
        out, err = capsys.readouterr()
        assert json.loads(out)["n_true"] == 0
        assert "there was no instance to compare" in err
    assert main(["evaluate", *labels, "--json"]) == 0
    assert "no instance" not in capsys.readouterr().err


def test_ids_that_small_floats_round_are_refused(em, cells, failure):
    np.save("pred.npy", cells.labels_ZYX.astype(np.float16) * np.float16(200))
    message = failure("evaluate", "pred.npy", "em.h5:labels")
    assert "pred.npy stores ids above 2^11 as 16-bit floats" in message
