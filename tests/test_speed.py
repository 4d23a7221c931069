"""How fast the machine trains."""

from __future__ import annotations

from napari_volseg.devices import Compute
from napari_volseg.speed import measure_speed


def test_a_processor_does_between_a_million_and_a_quadrillion_a_second() -> None:
    speed = measure_speed(Compute("cpu", "32", channels_last=False))
    assert 1e6 < speed < 1e15


def test_half_precision_is_credited_on_a_processor() -> None:
    # Both are measured in float32; the machine may be busy with other things.
    plain = measure_speed(Compute("cpu", "32", channels_last=False))
    half = measure_speed(Compute("cpu", "bf16", channels_last=True))
    assert half > 0.3 * plain
