import pytest
import torch

from napari_volseg.config import OptimizationConfig, OptimizerConfig
from napari_volseg.errors import DataError
from napari_volseg.optimizers import build_optimizer, load_optimizer, set_rates


def _network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3), torch.nn.BatchNorm3d(2))


def _build(network=None, **settings):
    config = OptimizationConfig(optimizer=OptimizerConfig(**settings))
    return build_optimizer(network or _network(), config)


@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_norms_and_biases_are_not_decayed(name):
    optimizer = _build(name=name, weight_decay=0.1)
    decayed, free = optimizer.param_groups
    assert type(optimizer).__name__ == name
    assert [p.ndim for p in decayed["params"]] == [5]
    assert {p.ndim for p in free["params"]} == {1}
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0)


def test_decay_shrinks_weights_and_nothing_else():
    network = _network()
    optimizer = _build(network, weight_decay=0.5, lr=0.1)
    before = [p.detach().clone() for p in network.parameters()]
    for p in network.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    ratios = [
        float((p.detach() / b)[b != 0].mean()) if (b != 0).any() else 1.0
        for p, b in zip(network.parameters(), before, strict=True)
    ]
    assert ratios == pytest.approx([0.95, 1, 1, 1])


def test_sgd_has_its_momentum_and_looks_ahead():
    group = _build(name="SGD", momentum=0.8).param_groups[0]
    assert (group["momentum"], group["nesterov"]) == (0.8, True)
    assert not _build(name="SGD", momentum=0).param_groups[0]["nesterov"]


def test_fused_and_plain_steps_agree():
    fused, plain = _network(), _network()
    optimizers = [_build(fused), _build(plain)]
    assert optimizers[0].param_groups[0]["fused"]
    for group in optimizers[1].param_groups:
        group["fused"] = False
    for _ in range(3):
        for network, optimizer in zip((fused, plain), optimizers, strict=True):
            for p in network.parameters():
                p.grad = torch.sin(p.detach() * 100)
            optimizer.step()
    for a, b in zip(fused.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_rates_reach_the_groups_they_are_for():
    optimizer = _build(betas=(0.8, 0.99))
    set_rates(optimizer, 0.02, 0.3)
    assert [g["lr"] for g in optimizer.param_groups] == [0.02, 0.02]
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.3, 0]
    assert optimizer.param_groups[1]["betas"] == (0.8, 0.99)
    set_rates(optimizer, 0.02, 0.3, momentum=0.85)
    assert {g["betas"] for g in optimizer.param_groups} == {(0.85, 0.99)}
    sgd = _build(name="SGD")
    set_rates(sgd, 0.02, 0.3, momentum=0.85)
    assert {g["momentum"] for g in sgd.param_groups} == {0.85}


def test_a_resumed_optimizer_keeps_its_memory_and_takes_new_settings():
    network = _network()
    first = _build(network)
    for p in network.parameters():
        p.grad = torch.ones_like(p)
    first.step()
    second = _build(network, betas=(0.7, 0.9))
    load_optimizer(second, first.state_dict())
    assert second.param_groups[0]["betas"] == (0.7, 0.9)
    moments = [s["exp_avg"] for s in second.state.values()]
    assert len(moments) == 4
    assert all(bool((m != 0).all()) for m in moments)


def test_the_memory_of_another_optimizer_is_refused():
    with pytest.raises(DataError, match=r"optimizer\.name is AdamW"):
        load_optimizer(_build(), _build(name="SGD").state_dict())
