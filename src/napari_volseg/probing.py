"""Try one training step in a throw-away process before trusting a number format.

Native kernels of low-precision convolutions can crash a process on some
processors. A crash there costs nothing; the training then takes a safer format.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import torch

from napari_volseg.config import build_config
from napari_volseg.devices import Compute, processor_features
from napari_volseg.known import read_known, write_known
from napari_volseg.losses import build_loss
from napari_volseg.networks import N_MAPS, Pyramid, build_network
from napari_volseg.planning import TrainPlan

__all__ = ["run_probe", "trusted_compute"]

_SECONDS = 300


def trusted_compute(plan: TrainPlan) -> tuple[Compute, str | None]:
    """Return the fastest form of computing that survives a step of this network.

    Returns
    -------
    compute, notice
        The notice says what was given up, or is None.
    """
    for compute in _from_fast_to_safe(plan.compute):
        if compute.device != "cpu" or compute.precision == "32":
            break
        if _survives(plan, compute):
            break
    if compute == plan.compute:
        return compute, None
    return compute, (
        f"This processor cannot train this network with {plan.compute}; "
        f"it trains with {compute}."
    )


def run_probe(text: str) -> None:
    """Do one training step as `text` describes; called in the throw-away process."""
    spec = json.loads(text)
    config = build_config(spec["config"])
    pyramid = Pyramid(
        tuple(tuple(f) for f in spec["pyramid"]["factors"]),
        tuple(tuple(k) for k in spec["pyramid"]["kernels"]),
    )
    compute = Compute(**spec["compute"])
    network = build_network(config.model, spec["in_channels"], pyramid)
    network = network.to(memory_format=compute.memory_format)  # type: ignore[call-overload]
    size = (
        config.system.training.patches_per_batch,
        spec["in_channels"],
        *spec["patch_size"],
    )
    image = torch.rand(size).contiguous(memory_format=compute.memory_format)
    with compute.autocast():
        outputs = network(image)
    targets = torch.rand((size[0], N_MAPS, *size[2:]))
    loss = build_loss(config.model)(outputs, targets, targets > 0.1).objective
    loss.backward()
    sys.exit(0 if bool(torch.isfinite(loss)) else 1)


def _from_fast_to_safe(compute: Compute) -> Iterator[Compute]:
    yield compute
    if compute.channels_last:
        yield replace(compute, channels_last=False)
    yield replace(compute, precision="32", channels_last=False)


def _survives(plan: TrainPlan, compute: Compute) -> bool:
    spec = _describe(plan, compute)
    machine = [torch.__version__, processor_features()]
    key = hashlib.sha256(json.dumps([spec, machine]).encode()).hexdigest()[:32]
    known = read_known()
    if key not in known:
        result = subprocess.run(
            [sys.executable, "-P", "-m", "napari_volseg", "probe"],
            input=json.dumps(spec).encode(),
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
        known[key] = result.returncode == 0
        write_known(known)
    return bool(known[key])


def _describe(plan: TrainPlan, compute: Compute) -> dict[str, Any]:
    config = plan.config
    return {
        "config": {
            "model": config.model.model_dump(
                mode="json", exclude={"input_size", "output_size"}
            ),
            "system": {
                "training": {"batch_size": config.system.training.patches_per_batch}
            },
        },
        "in_channels": plan.in_channels,
        "pyramid": asdict(plan.pyramid),
        "patch_size": plan.patch_size,
        "compute": asdict(compute),
    }
