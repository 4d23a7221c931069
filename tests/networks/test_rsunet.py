import pytest
import torch
from network_cases import make_model
from torch import nn

from napari_volseg.networks import Pyramid
from napari_volseg.networks.recomputing import recomputed
from napari_volseg.networks.rsunet import RSUNet
from napari_volseg.networks.skips import AttentionGate, NestedSkips
from napari_volseg.networks.stages import SpatialAttention, Stage, StageOptions

FLAT = Pyramid(((1, 2, 2), (2, 2, 2)), ((1, 1, 1),) * 3)


@pytest.mark.parametrize("skip", ["add", "concat", "attention", "dense"])
def test_the_whole_resize_path_keeps_a_constant(skip):
    """Kernels of one voxel see no padding, so the output must be constant."""
    network = RSUNet(1, 3, (4, 6, 8), FLAT, skip=skip).eval()
    out = network(torch.full((1, 1, 4, 8, 8), 0.3))[0]
    torch.testing.assert_close(out, out[:, :, :1, :1, :1].expand_as(out))


@pytest.mark.parametrize("n_levels", [1, 2, 5, 8])
def test_any_number_of_levels(n_levels):
    pyramid = Pyramid(((1, 2, 2),) * (n_levels - 1), ((1, 3, 3),) * n_levels)
    network = RSUNet(1, 3, (2,) * n_levels, pyramid).eval()
    image = torch.rand(1, 1, 1, *(2 ** (n_levels - 1),) * 2)
    assert network(image)[0].shape == (1, 3, *image.shape[2:])


def test_every_norm_is_the_one_asked_for(build):
    kinds = {
        "batch": nn.BatchNorm3d,
        "group": nn.GroupNorm,
        "instance": nn.InstanceNorm3d,
    }
    for name, kind in kinds.items():
        network, _ = build(make_model("rsunet", rsunet_norm=name))
        found = {type(m) for m in network.modules() if "Norm" in type(m).__name__}
        assert found == {kind}


def test_blocks_deepen_every_level(build):
    counts = []
    for blocks in (1, 2, 3):
        network, _ = build(make_model("rsunet", rsunet_blocks=blocks))
        counts.append(sum(isinstance(m, nn.Conv3d) for m in network.modules()))
    # Two convolutions more for each of three encoder and two decoder levels.
    assert counts == [counts[0], counts[0] + 10, counts[0] + 20]


def test_spatial_attention_weighs_all_channels_of_a_voxel_alike():
    maps = torch.rand(2, 16, 3, 4, 5) + 0.1
    share = (SpatialAttention(16)(maps) / maps).detach()
    assert bool(((share > 0) & (share < 1)).all())
    torch.testing.assert_close(share, share[:, :1].expand_as(share))
    assert float(share[0, 0].std()) > 0


def test_only_the_encoder_has_spatial_attention(build):
    network, _ = build(make_model("rsunet", rsunet_attention=True))
    found = [n for n, m in network.named_modules() if isinstance(m, SpatialAttention)]
    assert found == [f"encoders.{i}.attention" for i in range(3)]


def test_a_closed_gate_lets_nothing_of_the_skip_through():
    gate = AttentionGate(4)
    nn.init.constant_(gate.weight.bias, -1e4)
    skip, below = torch.rand(2, 1, 4, 2, 3, 3)
    torch.testing.assert_close(
        gate([skip], below), torch.cat([torch.zeros_like(skip), below], 1)
    )


def test_nested_skips_have_a_column_less_at_every_level():
    filters = (4, 6, 8, 10)
    pyramid = Pyramid(((1, 2, 2),) * 3, ((1, 3, 3),) * 4)
    features = [
        torch.rand(1, n, 2, 16 // 2**level, 16 // 2**level)
        for level, n in enumerate(filters)
    ]
    columns = NestedSkips(filters, pyramid, "batch")(features)
    assert [len(c) for c in columns] == [3, 2, 1]
    for level, nodes in enumerate(columns):
        assert nodes[0] is features[level]
        assert {n.shape for n in nodes} == {features[level].shape}


def test_dropout_drops_whole_maps_and_only_while_training():
    stage = Stage(1, 64, (3, 3, 3), StageOptions(dropout=0.5))
    seen = []
    stage.blocks[0].drop.register_forward_hook(lambda *a: seen.append(a[2]))
    image = torch.rand(2, 1, 4, 8, 8)
    torch.manual_seed(0)
    stage.train()(image)
    stage.eval()(image)
    training, predicting = ((s == 0).flatten(2).all(-1) for s in seen)
    partly = (seen[0] == 0).flatten(2).float().mean(-1)
    assert 0.3 < float(training.float().mean()) < 0.7
    assert float(predicting.float().mean()) < 0.1
    # What survives has zeros only where ReLU put them.
    assert float(partly[~training].max()) < 1


@pytest.mark.parametrize("skip", ["add", "dense"])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_checkpointing_changes_no_loss_gradient_or_statistic(build, skip, norm):
    image = torch.rand(2, 1, 8, 16, 16)
    results = []
    for checkpointing in (False, True):
        model = make_model(
            "rsunet",
            rsunet_skip=skip,
            rsunet_norm=norm,
            rsunet_dropout=0.3,
            deep_supervision=True,
            gradient_checkpointing=checkpointing,
        )
        network, _ = build(model, (8, 16, 16))
        torch.manual_seed(1)
        loss = sum(o.square().mean() for o in network.train()(image))
        loss.backward()
        results.append(
            {
                "loss": loss.detach(),
                **{n: p.grad for n, p in network.named_parameters()},
                **network.state_dict(keep_vars=False, prefix="state."),
            }
        )
    plain, twice = results
    assert plain.keys() == twice.keys()
    for key, value in plain.items():
        torch.testing.assert_close(twice[key], value, rtol=0, atol=0, msg=key)


def test_checkpointing_keeps_less_for_the_gradient(build):
    kept = []
    for checkpointing in (False, True):
        model = make_model("rsunet", gradient_checkpointing=checkpointing)
        network, _ = build(model)
        sizes = {}

        def pack(tensor, sizes=sizes):
            sizes[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            network.train()(torch.rand(1, 1, 16, 16, 16))
        kept.append(sum(sizes.values()))
    assert kept[1] < 0.6 * kept[0]


def test_checkpointing_restores_the_statistics_after_an_error():
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm3d(1)
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            if self.calls > 1:
                raise RuntimeError("out of memory")
            return self.norm(x).square()

    stage = Fails()
    out = recomputed(stage, torch.rand(1, 1, 2, 2, 2, requires_grad=True))
    with pytest.raises(RuntimeError, match="out of memory"):
        out.sum().backward()
    assert stage.norm.momentum == 0.1
    assert int(stage.norm.num_batches_tracked) == 1


def test_predicting_recomputes_nothing(build):
    network, _ = build(make_model("rsunet", gradient_checkpointing=True))
    calls = []
    network.encoders[0].register_forward_hook(lambda *_: calls.append(1))
    image = torch.rand(1, 1, 16, 16, 16, requires_grad=True)
    network.eval()(image)[0].sum().backward()
    assert len(calls) == 1
