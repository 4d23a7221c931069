"""``volseg fit``: thresholds that match stored maps to labels."""

import json

import numpy as np
import pytest

from napari_volseg.cli import main
from napari_volseg.config import InstancesConfig


@pytest.fixture
def files(tmp_path):
    """Two blobs as maps, of which the labels know the brighter one only."""
    z, y, x = np.indices((8, 40, 40))
    near, truth = np.zeros(z.shape), np.zeros(z.shape, np.int32)
    for centre, height in ((10, 1.0), (28, 0.6)):
        r = np.sqrt(((z - 4) * 2) ** 2 + (y - 20) ** 2 + (x - centre) ** 2)
        near = np.maximum(near, height * np.clip(1 - r / 9, 0, 1))
        if centre == 10:
            truth[r < 9] = 1
    maps = np.stack([near > 0.05, np.zeros(z.shape), near]) * 255
    np.save(tmp_path / "maps.npy", maps.astype(np.uint8))
    np.save(tmp_path / "labels.npy", truth)
    np.save(tmp_path / "empty.npy", np.zeros_like(truth))
    return tmp_path


def test_better_thresholds_are_printed_with_their_scores(files, capsys):
    progress = files / "progress.json"
    command = ["fit", str(files / "maps.npy"), str(files / "labels.npy"), "--json"]

    assert main([*command, "--curves", "--progress", str(progress)]) == 0

    found = json.loads(capsys.readouterr().out)
    config = InstancesConfig.model_validate(found["instances"])
    assert config.seed_distance > 0.5 or config.min_size > 500
    assert found["before"]["f1_50"] < found["scores"]["f1_50"] == 1
    assert found["curves"]["mask"]
    counted = json.loads(progress.read_text())
    assert 0 < counted["done"] <= counted["total"]
    assert main(command[:-1]) == 0
    assert "instances.seed_distance=" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("maps", "labels", "words"),
    [
        ("maps.npy", "empty.npy", "has no annotated object"),
        ("labels.npy", "labels.npy", "maps are uint8 with 3 channels"),
    ],
)
def test_what_cannot_be_fitted_is_said(files, capsys, maps, labels, words):
    assert main(["fit", str(files / maps), str(files / labels)]) == 2
    assert words in capsys.readouterr().err
