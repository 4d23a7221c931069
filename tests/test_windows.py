import numpy as np
import pytest
import torch
from torch import nn

from napari_volseg.config import InferenceConfig
from napari_volseg.devices import Compute
from napari_volseg.geometry import Box
from napari_volseg.volume import Volume
from napari_volseg.windows import plan_windows, predict_box

CPU = Compute("cpu", "32", channels_last=False)
RANGE = np.array([[0, 1]], np.float32)
WINDOW = (8, 16, 16)


class Constant(nn.Module):
    """Says the same everywhere."""

    def __init__(self, value):
        super().__init__()
        self.logit = float(torch.logit(torch.tensor(value)))

    def forward(self, image):
        shape = (image.shape[0], 3, *image.shape[2:])
        return (torch.full(shape, self.logit),)


class Blur(nn.Module):
    """Sees a neighbourhood, so that window borders matter."""

    def forward(self, image):
        out = nn.functional.avg_pool3d(image, 5, 1, 2, count_include_pad=False)
        return (torch.logit(out.expand(-1, 3, -1, -1, -1), 1e-4),)


def _predict(network, data, config=None, box=None):
    plan = plan_windows(data.shape[-3:], WINDOW, config or InferenceConfig(), box)
    return predict_box(network, Volume(data), RANGE, plan, CPU)


@pytest.mark.parametrize("value", [0.0, 0.2, 0.71, 1.0])  # none halfway between bytes
@pytest.mark.parametrize(
    "shape", [(8, 16, 16), (19, 41, 33), (3, 5, 40), (20, 10, 12), (1, 1, 1)]
)
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.7])
def test_a_constant_network_gives_a_constant_map_up_to_the_faces(value, shape, overlap):
    network = Constant(min(max(value, 1e-6), 1 - 1e-6))
    maps = _predict(
        network, np.zeros(shape, np.float32), InferenceConfig(overlap=overlap)
    )
    assert maps.shape == (3, *shape)
    assert np.unique(maps).tolist() == [round(value * 255)]


def test_a_box_is_predicted_as_the_whole_volume_holds_it(rng):
    data = rng.random((21, 40, 37), dtype=np.float32)
    whole = _predict(Blur(), data)
    for box in (
        Box((0, 0, 0), (21, 40, 37)),
        Box((5, 3, 8), (16, 29, 21)),
        Box((20, 39, 36), (21, 40, 37)),
        Box((0, 10, 0), (3, 12, 37)),
    ):
        np.testing.assert_array_equal(
            _predict(Blur(), data, box=box), whole[(slice(None), *box.slices)]
        )


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_the_batch_size_changes_nothing(rng, batch_size):
    data = rng.random((12, 30, 30), dtype=np.float32)
    config = InferenceConfig(batch_size=batch_size)
    np.testing.assert_array_equal(
        _predict(Blur(), data, config), _predict(Blur(), data)
    )


@pytest.mark.parametrize("flips", ["yx", "zyx"])
def test_mirrored_views_of_a_symmetric_network_agree(rng, flips):
    data = rng.random((12, 30, 30), dtype=np.float32)
    plain = _predict(Blur(), data).astype(int)
    mean = _predict(Blur(), data, InferenceConfig(flips=flips)).astype(int)
    assert np.abs(plain - mean).max() <= 1


def test_blending_agrees_with_monai(rng):
    from monai.inferers import sliding_window_inference

    data = rng.random((16, 32, 32), dtype=np.float32)
    ours = _predict(Blur(), data, InferenceConfig(overlap=0.5)) / 255
    with torch.no_grad():
        theirs = sliding_window_inference(
            torch.from_numpy(data)[None, None],
            WINDOW,
            1,
            lambda x: torch.sigmoid(Blur()(x)[0]),
            overlap=0.5,
            mode="gaussian",
        )
    assert np.abs(ours - theirs[0].numpy()).mean() < 0.01


def test_two_channels_are_read_together(rng):
    data = rng.random((2, 12, 20, 20), dtype=np.float32)

    class Second(nn.Module):
        def forward(self, image):
            logits = torch.logit(image[:, 1:], 1e-4)
            return (logits.expand(-1, 3, -1, -1, -1),)

    plan = plan_windows((12, 20, 20), WINDOW, InferenceConfig())
    ranges = np.array([[0, 1], [0, 1]], np.float32)
    maps = predict_box(Second(), Volume(data), ranges, plan, CPU)
    assert np.abs(maps[0] - data[1] * 255).max() <= 1
