"""What is measured of labelled volumes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from napari_volseg.errors import DataError
from napari_volseg.fingerprint import take_fingerprint
from napari_volseg.volume import LabelledVolume, Volume


def _volume(
    labels_ZYX: np.ndarray,
    annotated_ZYX: np.ndarray | None = None,
    noise: float = 0.0,
) -> LabelledVolume:
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 1, labels_ZYX.shape[2], dtype=np.float32)
    image = np.broadcast_to(ramp, labels_ZYX.shape)
    image = image + rng.normal(0, noise, labels_ZYX.shape).astype(np.float32)
    return LabelledVolume(
        Volume(image, (40.0, 20.0, 10.0), "hand-made"), labels_ZYX, annotated_ZYX
    )


def _three_boxes() -> np.ndarray:
    labels = np.zeros((20, 40, 60), np.int32)
    labels[4:8, 10:20, 10:30] = 7
    labels[4:8, 20:30, 10:30] = 900  # shares a face with 7
    labels[12:16, 10:20, 40:50] = 3
    return labels


def test_objects_are_counted_and_measured() -> None:
    found = take_fingerprint([_volume(_three_boxes())])
    assert found.n_instances == 3
    assert found.shapes == ((20, 40, 60),)
    assert found.extent == (4, 10, 20)
    assert found.median_size == 800
    assert found.touching_share == pytest.approx(2 / 3)
    assert found.foreground_share == pytest.approx(2000 / 48000)
    assert found.annotated_share == 1
    # Neighbours 7 and 900 are ten voxels of 20 nm apart along y, and 3 is far.
    assert found.spacing_nm == pytest.approx(200)


def test_only_annotated_voxels_count() -> None:
    labels = _three_boxes()
    annotated = np.zeros(labels.shape, bool)
    annotated[:10] = True
    found = take_fingerprint([_volume(labels, annotated)])
    assert found.n_instances == 2
    assert found.annotated_share == 0.5
    assert found.foreground_share == pytest.approx(1600 / 24000)


def test_volumes_are_taken_together() -> None:
    one = _volume(_three_boxes())
    found = take_fingerprint([one, one])
    assert found.n_instances == 6
    assert found.median_size == 800


def test_objects_cut_by_a_face_do_not_make_the_others_look_small() -> None:
    labels = np.zeros((8, 60, 60), np.int32)
    for i in range(12):
        y, x = 6 + 12 * (i // 4), 6 + 12 * (i % 4)
        labels[2:6, y : y + 8, x : x + 8] = i + 1
    labels[2:6, 58:, :2] = 90
    assert take_fingerprint([_volume(labels)]).small_size == 256


def test_a_shallow_volume_cuts_every_object_and_they_count() -> None:
    labels = np.zeros((4, 60, 60), np.int32)
    for i in range(16):
        y, x = 6 + 12 * (i // 4), 6 + 12 * (i % 4)
        labels[:, y : y + 8, x : x + 8] = i + 1
    assert take_fingerprint([_volume(labels)]).extent == (4, 8, 8)


@pytest.mark.parametrize("noise", [0.02, 0.2])
def test_noise_is_estimated(noise: float) -> None:
    found = take_fingerprint([_volume(_three_boxes(), noise=noise)], (0.0, 1.0))
    # The range grows with the tails of the noise, by which it is then divided.
    assert 0.4 * noise < found.noise < 1.1 * noise


def test_a_smooth_image_has_no_noise() -> None:
    assert take_fingerprint([_volume(_three_boxes())], (0.0, 1.0)).noise < 1e-6


def test_of_a_large_volume_the_middle_is_measured(monkeypatch) -> None:
    monkeypatch.setattr("napari_volseg.fingerprint._MAX_VOXELS", 6000)
    labels = np.zeros((20, 40, 60), np.int32)
    labels[8:12, 16:24, 24:36] = 5
    labels[:4, :4, :4] = 9
    found = take_fingerprint([_volume(labels)])
    assert found.n_instances == 1
    assert found.shapes == ((20, 40, 60),)
    assert found.foreground_share == pytest.approx(384 / 6000)


def test_of_a_large_volume_the_part_that_is_annotated_is_measured(monkeypatch) -> None:
    monkeypatch.setattr("napari_volseg.fingerprint._MAX_VOXELS", 6000)
    labels = _three_boxes()
    annotated = np.zeros(labels.shape, bool)
    annotated[10:, :22, 38:] = True
    found = take_fingerprint([_volume(labels, annotated)])
    assert found.n_instances == 1
    assert found.extent == (4, 10, 10)


def test_an_annotation_without_an_object_is_refused() -> None:
    annotated = np.zeros((20, 40, 60), bool)
    annotated[:2] = True
    with pytest.raises(DataError, match="hand-made have no object"):
        take_fingerprint([_volume(_three_boxes(), annotated)])


def test_a_single_object_has_no_neighbour() -> None:
    labels = np.zeros((4, 8, 8), np.int32)
    labels[1:3, 2:5, 2:5] = 1
    found = take_fingerprint([_volume(labels)])
    assert (found.spacing_nm, found.touching_share) == (0.0, 0.0)


def test_the_summary_is_plain_json() -> None:
    summary = take_fingerprint([_volume(_three_boxes())]).summary()
    assert json.loads(json.dumps(summary))["n_instances"] == 3
