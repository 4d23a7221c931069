"""The tests that every network passes."""

import copy

import pytest
import torch
from network_cases import NETWORKS, make_model
from torch import nn

from napari_volseg.checkpoint import load_model, model_metadata, save_model
from napari_volseg.config import Config
from napari_volseg.networks import required_multiple

PATCHES = {
    "cubic": ((16, 16, 16), (1.0, 1.0, 1.0)),
    "deep voxels": ((8, 32, 32), (40.0, 10.0, 10.0)),
    "one slice": ((1, 32, 32), (1.0, 1.0, 1.0)),
}


@pytest.mark.parametrize("kind", PATCHES)
def test_logits_have_the_shape_of_the_image(model, build, kind):
    patch, voxel_size = PATCHES[kind]
    network, _ = build(model, patch, voxel_size, in_channels=2)
    with torch.no_grad():
        out = network.eval()(torch.rand(1, 2, *patch))
    assert len(out) == 1
    assert out[0].shape == (1, 3, *patch)


def test_the_required_multiple_is_enough(model, build):
    network, pyramid = build(model, (16, 32, 32), (20.0, 10.0, 10.0))
    z, y, x = required_multiple(model, pyramid)
    assert max(z, y, x) > 1
    image = torch.rand(1, 1, 3 * z, y, 2 * x)
    with torch.no_grad():
        assert network.eval()(image)[0].shape[2:] == image.shape[2:]


def test_a_constant_stays_a_constant_up_to_the_faces(model, build):
    network, _ = build(model, (8, 32, 32), (40.0, 10.0, 10.0))
    assert _spread(network) < 1e-5


@pytest.mark.parametrize(
    "name", [n for n in NETWORKS if n.startswith(("monai", "mednext")) and "-" not in n]
)
def test_transposed_convolutions_do_not_keep_a_constant(name, build):
    model = make_model(name, monai_upsample="transposed")
    network, _ = build(model, (8, 32, 32), (40.0, 10.0, 10.0))
    assert _spread(network) > 1e-2


def _spread(network):
    """Return how far apart logits of a constant image are, as a share of the largest.

    Without zero padding and learnt positions, nothing but the resizing can tell
    voxels apart. Instance norms are taken out, for they make a constant zero.
    """
    for module in list(network.modules()):
        if isinstance(module, nn.Conv3d):
            module.padding_mode = "replicate"
        for name, child in module.named_children():
            if isinstance(child, nn.InstanceNorm3d):
                setattr(module, name, nn.Identity())
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
        if name.endswith("positions"):
            nn.init.zeros_(parameter)
    with torch.no_grad():
        (out,) = network.eval()(torch.full((1, 1, 8, 32, 32), 0.3))
    spread = (out.amax((2, 3, 4)) - out.amin((2, 3, 4))).max()
    return float(spread / out.abs().max())


def test_the_gradient_reaches_every_parameter(model, build):
    network, _ = build(model)
    outputs = network.train()(torch.rand(2, 1, 16, 16, 16))
    sum((o * torch.randn_like(o)).sum() for o in outputs).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None] == []
    moved = [p for p in network.parameters() if bool((p.grad != 0).any())]
    assert len(moved) > 0.7 * len(list(network.parameters()))


def test_deep_supervision_returns_the_best_output_first(model, build):
    network, _ = build(model, (8, 64, 64), (40.0, 10.0, 10.0))
    image = torch.rand(1, 1, 8, 64, 64)
    outputs = network.train()(image)
    assert (len(outputs) > 1) == model.deep_supervision
    sizes = [o[0, 0].numel() for o in outputs]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == image.numel()
    if model.architecture != "monai_basic_unetplusplus":
        assert len(set(sizes)) == len(sizes)
    assert all(o.shape[1] == 3 for o in outputs)


def test_training_and_prediction_share_the_first_output(model, build):
    """The output that the loss weighs most is the one that predicts."""
    network, _ = build(model.model_copy(update={"rsunet_dropout": 0.0}))
    image = torch.rand(1, 1, 16, 16, 16)
    network.train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eval()
    with torch.no_grad():
        first = network(image)[0]
        torch.testing.assert_close(network.eval()(image)[0], first)


def test_a_saved_model_predicts_the_same(model, build, tmp_path):
    network, pyramid = build(model, (8, 32, 32), (40.0, 10.0, 10.0), in_channels=2)
    image = torch.rand(1, 2, 8, 32, 32)
    with torch.no_grad():
        network.train()(image)
        expected = network.eval()(image)[0]
    config = Config(model=model)
    metadata = model_metadata(
        config, pyramid, 2, (40.0, 10.0, 10.0), (8, 32, 32), 1, {}
    )
    save_model(tmp_path / "model.safetensors", network.state_dict(), metadata)
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.config.model == model
    with torch.no_grad():
        torch.testing.assert_close(loaded.network(image)[0], expected, rtol=0, atol=0)


def test_a_network_that_has_been_used_can_be_copied(model, build):
    network, _ = build(model)
    image = torch.rand(1, 1, 16, 16, 16)
    network.train()(image)[0].sum().backward()
    twin = copy.deepcopy(network).eval()
    with torch.no_grad():
        torch.testing.assert_close(twin(image)[0], network.eval()(image)[0])


def test_a_network_learns_one_patch_by_heart(model, build):
    network, _ = build(model.model_copy(update={"rsunet_dropout": 0.0}), (4, 16, 16))
    image = torch.zeros(1, 1, 4, 16, 16)
    image[..., 1:3, 3:9, 4:12] = 1
    target = torch.cat([image, 1 - image, image], 1)
    rate = 0.003 if model.architecture == "mednext" else 0.03
    optimizer = torch.optim.Adam(network.parameters(), rate)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(network(image)[0], target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_computes_in_bfloat16_what_the_processor_does(model, build):
    network, _ = build(model, (16, 32, 32))
    image = torch.rand(2, 1, 16, 32, 32)
    with torch.no_grad():
        expected = torch.sigmoid(network.eval()(image)[0])
    network = network.cuda().to(memory_format=torch.channels_last_3d)
    x = image.cuda().contiguous(memory_format=torch.channels_last_3d)
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        found = torch.sigmoid(network(x)[0].float()).cpu()
    assert (found - expected).abs().mean() < 0.02
    with torch.autocast("cuda", torch.bfloat16):
        outputs = network.train()(x)
    sum(o.float().square().mean() for o in outputs).backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert gradients
    assert all(bool(torch.isfinite(g).all()) for g in gradients)
