import pytest
import torch

from napari_volseg.checkpoint import load_model, model_metadata
from napari_volseg.checkpoint_folder import save_checkpoint
from napari_volseg.config import load_config
from napari_volseg.errors import DataError
from napari_volseg.intensities import Intensities
from napari_volseg.networks import build_network, plan_pyramid
from napari_volseg.soup import average_checkpoints

PATCH = (8, 16, 16)
KNOWN = ((Intensities((0.0,) * 4 + (1.0,) * 5, 0.1, None),),)


@pytest.fixture
def save(tmp_path):
    config = load_config("quick", ["model.filters=[4,6]", "experiment_name=mito"])
    pyramid = plan_pyramid(config.model, (30, 8, 8), PATCH)
    metadata = model_metadata(
        config, pyramid, 1, (30.0, 8.0, 8.0), PATCH, 12, {}, KNOWN
    )

    def save_step(step):
        torch.manual_seed(step)
        state = build_network(config.model, 1, pyramid).state_dict()
        content = {"network": state, "metadata": metadata}
        save_checkpoint(tmp_path / "checkpoints", content, step, best=False, keep=5)
        return state

    return save_step


def test_the_weights_are_the_mean_of_all_numbered_checkpoints(save, tmp_path):
    states = [save(step) for step in (1, 2, 7)]
    target = tmp_path / "average.safetensors"
    assert average_checkpoints(tmp_path / "checkpoints", target) == target
    model = load_model(target)
    assert model.name == "mito"
    assert model.intensities == KNOWN
    for key, tensor in model.network.state_dict().items():
        if tensor.is_floating_point():
            mean = torch.stack([state[key].double() for state in states]).mean(0)
            torch.testing.assert_close(tensor.double(), mean, rtol=1e-6, atol=1e-7)


def test_the_mean_of_equal_checkpoints_is_exactly_them(save, tmp_path):
    state = save(3)
    (tmp_path / "checkpoints" / "step-000004.ckpt").write_bytes(
        (tmp_path / "checkpoints" / "step-000003.ckpt").read_bytes()
    )
    target = tmp_path / "average.safetensors"
    average_checkpoints(tmp_path / "checkpoints", target)
    for key, tensor in load_model(target).network.state_dict().items():
        torch.testing.assert_close(tensor, state[key], rtol=0, atol=0)


def test_one_checkpoint_has_no_mean(save, tmp_path):
    save(1)
    with pytest.raises(DataError, match="a mean needs two"):
        average_checkpoints(tmp_path / "checkpoints", tmp_path / "a.safetensors")
