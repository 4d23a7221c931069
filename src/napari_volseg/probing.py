"""Try one training step in a throw-away process before trusting a number format.

Native kernels of low-precision convolutions can crash a process on some
processors, or return wrong gradients. A crash there costs nothing; the training then
takes a safer format.
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
from torch import Tensor, nn
from torch.nn import functional

from napari_volseg.config import build_config
from napari_volseg.devices import Compute, processor_features
from napari_volseg.known import read_known, write_known
from napari_volseg.losses import MapLoss, build_loss
from napari_volseg.networks import N_MAPS, Pyramid, build_network
from napari_volseg.planning import TrainPlan

__all__ = ["run_probe", "trusted_compute"]

_SECONDS = 300
_THRESHOLD = 0.1
_ALIKE = 0.5
"""Cosine between gradients in a format and in float32; right ones had 0.82 and more in
all networks, with weights and images drawn at random."""


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
    torch.manual_seed(0)
    config = build_config(spec["config"])
    z, y, x = spec["pyramid"]["binning"]
    pyramid = Pyramid(
        tuple(tuple(f) for f in spec["pyramid"]["factors"]),
        tuple(tuple(k) for k in spec["pyramid"]["kernels"]),
        (z, y, x),
    )
    compute = Compute(**spec["compute"])
    exact = replace(compute, precision="32", channels_last=False)
    network = build_network(config.model, spec["in_channels"], pyramid)
    loss = build_loss(config.model)
    batch_size, patch = config.system.training.patches_per_batch, spec["patch_size"]
    image = torch.rand((batch_size, spec["in_channels"], *patch))
    targets = torch.rand((batch_size, N_MAPS, *patch))
    _step(network, loss, compute, image, targets)
    found = _step(network, loss, compute, image[:1], targets[:1])
    expected = _step(network, loss, exact, image[:1], targets[:1])
    alike = functional.cosine_similarity(found, expected, dim=0)
    sys.exit(0 if float(alike) > _ALIKE else 1)


def _step(
    network: nn.Module, loss: MapLoss, compute: Compute, image: Tensor, targets: Tensor
) -> Tensor:
    """Return the gradient of one step, all weights in one row."""
    network = network.to(memory_format=compute.memory_format)  # type: ignore[call-overload]
    network.zero_grad()
    torch.manual_seed(0)  # for dropout
    with compute.autocast():
        outputs = network(image.contiguous(memory_format=compute.memory_format))
    loss(outputs, targets, targets > _THRESHOLD).objective.backward()
    return torch.cat(
        [p.grad.flatten() for p in network.parameters() if p.grad is not None]
    )


def _from_fast_to_safe(compute: Compute) -> Iterator[Compute]:
    yield compute
    if compute.channels_last:
        yield replace(compute, channels_last=False)
    yield replace(compute, precision="32", channels_last=False)


def _survives(plan: TrainPlan, compute: Compute) -> bool:
    spec = _describe(plan, compute)
    machine = [torch.__version__, processor_features(), "gradients compared"]
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
