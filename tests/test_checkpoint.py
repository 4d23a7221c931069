import json
import os
import pickle

import pytest
import torch

from napari_volseg.checkpoint import (
    load_model,
    model_metadata,
    save_model,
)
from napari_volseg.checkpoint_folder import save_checkpoint
from napari_volseg.config import load_config
from napari_volseg.errors import DataError
from napari_volseg.models import FORMAT_VERSION, read_model_info
from napari_volseg.networks import build_network, plan_pyramid

PATCH = (8, 16, 16)


@pytest.fixture
def parts():
    config = load_config("quick", ["model.filters=[4,6]", "experiment_name=mito"])
    pyramid = plan_pyramid(config.model, (30, 8, 8), PATCH)
    network = build_network(config.model, 1, pyramid)
    metadata = model_metadata(
        config, pyramid, 1, (30.0, 8.0, 8.0), PATCH, 12, {"f1_50": 0.8}
    )
    return network, {**metadata, "score": 0.8}


@pytest.fixture
def model(parts, tmp_path):
    network, metadata = parts
    path = tmp_path / "model.safetensors"
    save_model(path, network.state_dict(), metadata)
    return path


def test_a_saved_model_gives_the_same_output(parts, model):
    image = torch.rand(1, 1, *PATCH)
    loaded = load_model(model)
    torch.testing.assert_close(
        loaded.network(image)[0], parts[0].eval()(image)[0], rtol=0, atol=0
    )
    assert loaded.voxel_size == (30, 8, 8)
    assert loaded.patch_size == PATCH
    assert loaded.name == "mito"


def test_a_model_says_what_it_is_without_torch(model):
    info = read_model_info(model)
    assert (info.name, info.score, info.voxel_size) == ("mito", 0.8, (30, 8, 8))
    assert info.architecture == "rsunet"


def test_a_checkpoint_is_a_model_too(parts, tmp_path):
    network, metadata = parts
    state = {"network": network.state_dict(), "metadata": metadata}
    save_checkpoint(tmp_path / "checkpoints", state, 3, best=True, keep=2)
    image = torch.rand(1, 1, *PATCH)
    for name in ("step-000003", "last", "best"):
        loaded = load_model(tmp_path / "checkpoints" / f"{name}.ckpt")
        torch.testing.assert_close(
            loaded.network(image)[0], network.eval()(image)[0], rtol=0, atol=0
        )


class _Trap:
    def __reduce__(self):
        return os.mkdir, ("trapped",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "0")
    path = tmp_path / "evil.ckpt"
    torch.save({"network": _Trap()}, path)
    with pytest.raises(DataError, match=r"evil\.ckpt needs .*mkdir"):
        load_model(path)
    (tmp_path / "legacy.ckpt").write_bytes(pickle.dumps(_Trap()))
    with pytest.raises(DataError, match="any code"):
        load_model(tmp_path / "legacy.ckpt")
    assert not (tmp_path / "trapped").exists()


def _rewrite(path, parts, change):
    network, metadata = parts
    weights = dict(network.state_dict())
    change(weights, metadata)
    save_model(path, weights, metadata)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w, m: w.pop("heads.0.bias"), "do not fit its network.*heads.0.bias"),
        (lambda w, m: w.update(extra=torch.zeros(1)), "do not fit.*extra"),
        (
            lambda w, m: w.update({"heads.0.bias": torch.zeros(7)}),
            "do not fit its network",
        ),
        (
            lambda w, m: w.update({"heads.0.bias": torch.full((3,), float("nan"))}),
            "NaN or infinite",
        ),
        (lambda w, m: m.update(format_version=FORMAT_VERSION + 1), "newer version"),
        (lambda w, m: m["config"].update(colour="red"), "no setting 'colour'"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(parts, model, change, message):
    _rewrite(model, parts, change)
    with pytest.raises(DataError, match=message):
        load_model(model)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_model_is_refused(model, share):
    data = model.read_bytes()
    model.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=r"model\.safetensors"):
        load_model(model)


@pytest.mark.parametrize("text", [b"<!DOCTYPE html>", b"PK\x03\x04", b"", b"\x80\x02}"])
def test_what_is_no_model_is_refused(tmp_path, text):
    for name in ("a.safetensors", "a.ckpt"):
        (tmp_path / name).write_bytes(text)
        with pytest.raises(DataError, match=r"a\."):
            load_model(tmp_path / name)


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    path = tmp_path / "other.ckpt"
    torch.save({"state_dict": {}}, path)
    with pytest.raises(DataError, match="not a checkpoint of a volseg run"):
        load_model(path)
    torch.save([1, 2], path)
    with pytest.raises(DataError, match="not a checkpoint"):
        load_model(path)


def test_metadata_is_json(parts):
    assert json.loads(json.dumps(parts[1])) == parts[1]
