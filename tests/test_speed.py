"""How fast the machine trains."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

from napari_volseg import speed
from napari_volseg.automatic import training_cost
from napari_volseg.config import build_config
from napari_volseg.devices import Compute
from napari_volseg.speed import measure_speed

PLAIN = Compute("cpu", "32", channels_last=False)


def test_a_processor_does_between_a_million_and_a_quadrillion_a_second() -> None:
    assert 1e6 < measure_speed(PLAIN) < 1e15


@pytest.mark.parametrize(("free", "depth"), [(2, 16), (16, 32)])
def test_a_gpu_is_measured_with_a_network_that_keeps_it_busy_where_that_fits(
    monkeypatch: pytest.MonkeyPatch, free: int, depth: int
) -> None:
    memory = (free * 2**30, 16 * 2**30)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: memory)
    assert speed._reference_config("cuda").data.patch_size[0] == depth
    assert speed._reference_config("cpu").data.patch_size[0] == 16


def test_half_precision_is_credited_on_a_processor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = build_config(
        {
            "model": {"filters": [4, 8], "rsunet_norm": "group"},
            "data": {"patch_size": [8, 16, 16]},
        }
    )
    monkeypatch.setattr(speed, "_reference_config", lambda device: config)

    def measure(compute: Compute) -> float:
        clock = itertools.count(step=0.5)
        time = SimpleNamespace(perf_counter=lambda: next(clock))
        monkeypatch.setattr(speed, "time", time)
        return measure_speed(compute)

    cost = training_cost(config, (1.0, 1.0, 1.0))
    plain = measure(PLAIN)
    assert plain == pytest.approx(2 * 3 * cost / 1.5)
    half = measure(Compute("cpu", "bf16", channels_last=True))
    assert half == pytest.approx(1.8 * plain)
