import json
import pickle

import pytest
import torch
from safetensors.torch import save_file

from napari_volseg.checkpoint import load_model, model_metadata, save_model
from napari_volseg.config import build_config
from napari_volseg.errors import DataError
from napari_volseg.losses import load_features
from napari_volseg.losses.maps import ChannelMaps
from napari_volseg.losses.perceptual import feature_distance
from napari_volseg.models import METADATA_KEY
from napari_volseg.networks import build_network, plan_pyramid


def test_features_are_those_of_the_models_encoder(seeing_model):
    map_ = torch.rand((1, 1, 8, 16, 16))
    network = load_model(seeing_model).network
    expected = network.encode(map_.expand(-1, 2, -1, -1, -1))
    found = load_features(seeing_model)(map_)
    assert len(found) == 2
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_equal_maps_look_equal_and_unequal_ones_do_not(seeing_model):
    term = feature_distance(load_features(seeing_model))
    target = (torch.rand((1, 6, 12, 12)) > 0.5).float()
    valid = torch.ones_like(target, dtype=torch.bool)

    def distance(noise):
        p = target + noise * (0.5 - target)
        return term(ChannelMaps.of(torch.logit(p), target, valid)).item()

    assert distance(0.0) == pytest.approx(0, abs=1e-6)
    assert distance(0.0) < distance(0.3) < distance(1.0)


def test_maps_of_any_size_fit_the_network(seeing_model):
    term = feature_distance(load_features(seeing_model))
    logits = torch.zeros((2, 5, 7, 9), requires_grad=True)
    target = torch.rand((2, 5, 7, 9))
    term(ChannelMaps.of(logits, target, target >= 0)).backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.any()


def test_the_network_is_frozen(seeing_model):
    features = load_features(seeing_model)
    before = features(torch.ones((1, 1, 8, 8, 8)))
    target = torch.rand((1, 8, 8, 8), requires_grad=True)
    term = feature_distance(features)
    term(ChannelMaps.of(target, target.detach(), target > 0)).backward()
    after = features(torch.ones((1, 1, 8, 8, 8)))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not after[0].requires_grad


def _missing(folder):
    return folder / "model.safetensors"


def _relative(folder):
    return "model.safetensors"


def _pickle(folder):
    path = folder / "model.ckpt"
    path.write_bytes(pickle.dumps({"network": {}}))
    return path


def _folder(folder):
    (folder / "model.safetensors").mkdir()
    return folder / "model.safetensors"


def _noise(folder):
    path = folder / "model.safetensors"
    path.write_bytes(bytes(range(256)) * 40)
    return path


def _foreign(folder):
    path = folder / "model.safetensors"
    save_file({"weight": torch.ones(3)}, path)
    return path


def _cut_off(folder):
    path = folder / "model.safetensors"
    _write(path, "rsunet")
    path.write_bytes(path.read_bytes()[:-100])
    return path


def _misshapen(folder):
    path = folder / "model.safetensors"
    metadata, weights = _parts("rsunet")
    save_model(path, {k: v[..., None] for k, v in weights.items()}, metadata)
    return path


def _newer(folder):
    path = folder / "model.safetensors"
    metadata, weights = _parts("rsunet")
    text = json.dumps(metadata | {"format_version": 99})
    save_file(dict(weights), path, {METADATA_KEY: text})
    return path


def _infinite(folder):
    path = folder / "model.safetensors"
    metadata, weights = _parts("rsunet")
    bad = {k: v * torch.inf if v.is_floating_point() else v for k, v in weights.items()}
    save_model(path, bad, metadata)
    return path


def _other_network(folder):
    path = folder / "model.safetensors"
    _write(path, "monai_unet")
    return path


def _parts(architecture):
    config = build_config({"model": {"filters": [2, 2], "architecture": architecture}})
    pyramid = plan_pyramid(config.model, (1.0, 1.0, 1.0), (8, 8, 8))
    network = build_network(config.model, 1, pyramid)
    metadata = model_metadata(config, pyramid, 1, (1, 1, 1), (8, 8, 8), 0, {})
    return metadata, network.state_dict()


def _write(path, architecture):
    metadata, weights = _parts(architecture)
    save_model(path, weights, metadata)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_missing, "there is no file"),
        (_relative, "absolute path"),
        (_pickle, "choose the model.safetensors"),
        (_folder, "there is no file"),
        (_noise, "model.safetensors"),
        (_foreign, "was not made by napari-volseg"),
        (_cut_off, "incomplete"),
        (_misshapen, "do not fit"),
        (_newer, "newer version"),
        (_infinite, "NaN or infinite"),
        (_other_network, "not RSUNet"),
    ],
)
def test_files_that_are_no_model_are_refused(make, message, tmp_path):
    with pytest.raises(DataError, match=message):
        load_features(make(tmp_path))
