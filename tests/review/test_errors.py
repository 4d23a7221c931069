"""Errors of instances, on volumes small enough to see them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_volseg.metrics import evaluate
from napari_volseg.review import instance_table
from napari_volseg.review.errors import KINDS, find_errors, score_curves
from napari_volseg.review.operations import OPERATIONS
from napari_volseg.review.surfaces import surface, write_obj, write_ply
from napari_volseg.sample_data import make_sample


def tables(pred: np.ndarray, truth: np.ndarray) -> tuple[dict, dict]:
    return instance_table(pred, None, (1, 1, 1)), instance_table(truth, None, (1, 1, 1))


def row(*runs: tuple[int, int]) -> np.ndarray:
    """Make a volume of one row from (id, length)."""
    return np.concatenate([np.full(n, i, np.int32) for i, n in runs])[None, None]


@pytest.mark.parametrize(
    ("truth", "pred", "expected"),
    [
        (row((1, 6), (0, 4)), row((5, 6), (0, 4)), []),
        (row((1, 6), (0, 4)), row((0, 10)), [("missed", 1, [])]),
        (row((0, 10)), row((0, 4), (7, 6)), [("extra", 7, [])]),
        (row((1, 4), (2, 4)), row((9, 8)), [("merged", 9, [1, 2])]),
        (row((1, 8)), row((3, 4), (4, 4)), [("split", 1, [3, 4])]),
        # A crumb of one voxel in thirty splits nothing.
        (row((1, 30)), row((3, 29), (4, 1)), []),
        (row((1, 4), (0, 8)), row((3, 12)), [("inexact", 1, [3])]),
        (row((1, 8), (0, 2)), row((3, 2), (0, 8)), [("missed", 1, [])]),
    ],
)
def test_every_kind_of_error(
    truth: np.ndarray, pred: np.ndarray, expected: list[tuple[str, int, list[int]]]
) -> None:
    errors, kinds = find_errors(pred, truth, tables(pred, truth))
    assert [(e["kind"], e["label"], e["partners"]) for e in errors] == expected
    for error in errors:
        side = truth if error["truth"] else pred
        number = KINDS.index(error["kind"]) + 1
        assert (kinds[side == error["label"]] == number).all()
    if not expected:
        assert not kinds.any()


def test_curves_agree_with_the_metrics() -> None:
    truth = make_sample("cells", (12, 48, 48), seed=1).labels_ZYX
    pred = np.roll(truth, 2, axis=2)
    pred[pred == 3] = 2
    curves = score_curves(pred, truth, tables(pred, truth))
    metrics = evaluate(pred, truth)
    assert 0 < metrics["f1_50"] < 1
    assert curves["f1"][0] == pytest.approx(metrics["f1_50"])
    assert curves["accuracy"][0] == pytest.approx(metrics["ap_50"])
    every_5th = [curves["accuracy"][i] for i in range(0, 50, 5)]
    assert np.mean(every_5th) == pytest.approx(metrics["ap"])
    assert (np.diff(curves["f1"]) <= 0).all()


def test_evaluating_leaves_out_what_is_not_annotated_or_small() -> None:
    truth = row((1, 6), (0, 4), (2, 6), (3, 1), (0, 1))
    pred = row((4, 6), (0, 12))
    annotated = np.ones(truth.shape, np.uint8)
    annotated[..., 10:16] = 0
    arrays = {"prediction": pred, "truth": truth, "annotated": annotated}
    options = {"voxel_size": (1, 1, 1), "min_size": 2}
    answer, values = OPERATIONS["evaluate"](arrays, options)
    assert values["errors"] == []
    assert values["metrics"]["n_true"] == 1
    assert not answer["kinds"].any()
    assert (arrays["truth"] == truth).all()


def test_surfaces_lie_in_nanometres_and_look_outwards(tmp_path: Path) -> None:
    block = np.ones((2, 3, 4), bool)
    vertices, faces = surface(block, np.array([10.0, 0, 0]), (30.0, 8.0, 8.0))
    assert vertices.min(axis=0) == pytest.approx([-4, -4, 10 * 30 - 15])
    assert vertices.max(axis=0) == pytest.approx([3.5 * 8, 2.5 * 8, 11.5 * 30])
    a, b, c = (vertices[faces[:, i]].astype(float) for i in range(3))
    volume = (np.cross(a, b) * c).sum() / 6
    assert 0.7 < volume / (24 * 30 * 8 * 8) < 1

    meshes = {7: (vertices, faces), 9: (vertices, faces)}
    write_obj(tmp_path / "a.obj", meshes)
    lines = (tmp_path / "a.obj").read_text().splitlines()
    assert [line for line in lines if line.startswith("o ")] == [
        "o instance-7",
        "o instance-9",
    ]
    corners = [int(n) for line in lines if line[0] == "f" for n in line.split()[1:]]
    assert max(corners) == 2 * len(vertices)
    write_ply(tmp_path / "a.ply", meshes)
    data = (tmp_path / "a.ply").read_bytes()
    header, body = data.split(b"end_header\n", 1)
    assert f"element face {2 * len(faces)}".encode() in header
    assert len(body) == 2 * (12 * len(vertices) + 17 * len(faces))


@pytest.mark.parametrize(
    ("label", "line", "type_"),
    [
        (7, "property int instance", "<i4"),
        (3_000_000_000, "property uint instance", "<u4"),
        (2**33, "property double instance", "<f8"),
    ],
)
def test_surfaces_keep_large_ids(
    tmp_path: Path, label: int, line: str, type_: str
) -> None:
    mesh = surface(np.ones((2, 2, 2), bool), np.zeros(3), (1.0, 1.0, 1.0))
    write_ply(tmp_path / "a.ply", {label: mesh})
    header, _, body = (tmp_path / "a.ply").read_bytes().partition(b"end_header\n")
    assert line in header.decode().splitlines()
    row = np.dtype([("n", "u1"), ("corners", "<i4", 3), ("instance", type_)])
    rows = np.frombuffer(body[mesh[0].nbytes :], row)
    assert len(rows) == len(mesh[1])
    assert (rows["instance"] == label).all()
