"""The demo's pictures, charts and report; the whole demo is `make demo`."""

from __future__ import annotations

import base64
import io
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_volseg.charts import line_chart
from napari_volseg.demo import screens
from napari_volseg.demo.figures import (
    colour_labels,
    colour_map,
    encode_png,
    matching_colours,
    to_grey,
)
from napari_volseg.demo.report import DemoResult, write_report
from napari_volseg.events import Progress, Validated

RED = [235, 64, 52]


@pytest.fixture
def truth_ZYX() -> np.ndarray:
    labels = np.zeros((4, 12, 12), np.int32)
    labels[:, 1:5, 1:5] = 1
    labels[:, 1:5, 7:11] = 2
    labels[:, 7:11, 1:11] = 3
    return labels


def test_objects_found_share_the_colour_of_their_true_object(
    truth_ZYX: np.ndarray,
) -> None:
    found_ZYX = np.array([0, 9, 4, 2], np.int32)[truth_ZYX]
    truth, found, n_matched = matching_colours(truth_ZYX, found_ZYX)
    assert n_matched == 3
    np.testing.assert_array_equal(found[found_ZYX], truth[truth_ZYX])
    assert len(np.unique(truth[1:], axis=0)) == 3


def test_objects_without_partner_are_red_and_background_is_black(
    truth_ZYX: np.ndarray,
) -> None:
    found_ZYX = np.where(truth_ZYX == 2, 1, truth_ZYX)  # 1 and 2 run together
    truth, found, n_matched = matching_colours(truth_ZYX, found_ZYX)
    assert n_matched == 1
    assert truth[1].tolist() == truth[2].tolist() == found[1].tolist() == RED
    assert truth[3].tolist() == found[3].tolist() != RED
    assert truth[0].tolist() == found[0].tolist() == [0, 0, 0]


def test_an_empty_prediction_matches_nothing(truth_ZYX: np.ndarray) -> None:
    _, found, n_matched = matching_colours(truth_ZYX, np.zeros_like(truth_ZYX))
    assert n_matched == 0
    assert found.tolist() == [[0, 0, 0]]


def test_png_keeps_every_pixel() -> None:
    plane = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for image in (to_grey(plane, 0, 255), colour_map(plane, "distance")):
        decoded = np.asarray(Image.open(io.BytesIO(encode_png(image, zoom=2))))
        np.testing.assert_array_equal(decoded[::2, ::2], image)
        np.testing.assert_array_equal(decoded[1::2, 1::2], image)


def test_grey_runs_from_black_to_white_and_survives_a_constant_image() -> None:
    plane = np.array([[-5.0, 0.0, 10.0, 99.0]])
    assert to_grey(plane, 0, 10)[0, :, 0].tolist() == [0, 0, 255, 255]
    assert np.isfinite(to_grey(np.zeros((2, 2)), 0, 0)).all()


def test_unlabelled_pixels_show_the_image_beneath(truth_ZYX: np.ndarray) -> None:
    colours, _, _ = matching_colours(truth_ZYX, truth_ZYX)
    grey = np.full((12, 12, 3), 200, np.uint8)
    shown = colour_labels(truth_ZYX[0], colours, grey)
    np.testing.assert_array_equal(shown[truth_ZYX[0] == 0], 200)
    assert (shown[truth_ZYX[0] > 0] != 200).any(axis=-1).all()


@pytest.mark.parametrize("highest", [3e-6, 0.4, 1.0, 7.3, 1234.0])
def test_a_chart_holds_all_its_points(highest: float) -> None:
    card = line_chart("loss", {"a": [(0.0, highest), (2.0, 0.0)]}, "minutes <x>")
    svg = ET.fromstring(re.search(r"<svg.*</svg>", card).group())  # type: ignore[union-attr]
    (line,) = svg.iter("polyline")
    points = [tuple(map(float, p.split(","))) for p in line.attrib["points"].split()]
    assert all(0 <= x <= 460 and 0 <= y <= 230 for x, y in points)
    assert points[0][1] < points[1][1]


def test_a_chart_of_nothing_says_so() -> None:
    assert "nothing was recorded" in line_chart("score", {"a": []}, "steps")


@pytest.fixture
def result(truth_ZYX: np.ndarray, tmp_path: Path) -> DemoResult:
    rng = np.random.default_rng(0)
    scores = dict.fromkeys(
        ("f1_50", "precision_50", "recall_50", "ap", "adapted_rand_error"), 0.875
    )
    return DemoResult(
        image_ZYX=rng.integers(0, 255, truth_ZYX.shape, dtype=np.uint8),
        truth_ZYX=truth_ZYX,
        maps_CZYX=rng.integers(0, 255, (3, *truth_ZYX.shape), dtype=np.uint8),
        instances_ZYX=truth_ZYX,
        scores=scores | {"n_true": 3, "n_pred": 3},
        events=[
            Progress(5, 10, 30.0, loss=1.5, losses=(0.5, 0.4, 0.2)),
            Validated(5, {"f1_50": 0.5, "ap": 0.3}, best=True),
            Progress(10, 10, 60.0, loss=1.0, losses=(0.3, 0.3, 0.1)),
        ],
        seconds={"training": 60.0},
        device="cpu, float32",
        commands=["volseg train quick --label 'a<b>.h5'"],
        folder=tmp_path / "run",
    )


def test_the_report_needs_nothing_beside_it(result: DemoResult, tmp_path: Path) -> None:
    path, screenshot = tmp_path / "report.html", tmp_path / "napari.png"
    screenshot.write_bytes(encode_png(np.zeros((4, 4, 3), np.uint8)))
    write_report(path, result, screenshot)
    page = path.read_text("utf-8")
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "0.88" in page
    assert "a&lt;b&gt;.h5" in page
    assert page.count("<polyline") == 5


def test_the_report_shows_every_view_of_every_slice(
    result: DemoResult, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    write_report(path, result, None)
    page = path.read_text("utf-8")
    slices = json.loads(re.search(r"const slices = (.*);", page).group(1))  # type: ignore[union-attr]
    names = set(re.findall(r'<img id="(\w+)"', page))
    assert [one["z"] for one in slices] == [0, 1, 2, 3]
    for one in slices:
        assert names == set(one) - {"z"}
        for name in names:
            picture = Image.open(io.BytesIO(base64.b64decode(one[name])))
            assert picture.size == (12, 12)
    assert "In napari" not in page


def test_without_a_screen_the_demo_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(screens.sys, "platform", "linux")
    monkeypatch.setattr(screens.shutil, "which", lambda name: None)
    monkeypatch.setattr(screens, "find_spec", lambda name: object())
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    problem = screens.take_screenshot(tmp_path, tmp_path, tmp_path / "a.png")
    assert problem == "there is no screen"


@pytest.mark.parametrize("missing", ["napari", "PyQt6"])
def test_without_napari_or_qt_the_demo_says_how_to_get_them(
    missing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    present = {"napari", "PyQt6"} - {missing}
    monkeypatch.setattr(screens, "find_spec", lambda name: name in present or None)
    problem = screens.take_screenshot(tmp_path, tmp_path, tmp_path / "a.png")
    assert problem is not None
    assert "napari-volseg[all]" in problem
