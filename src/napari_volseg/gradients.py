"""The gradient of one step, from as many forward passes and processes as it takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from napari_volseg.devices import Compute
from napari_volseg.distributed import Group
from napari_volseg.losses import MapLoss
from napari_volseg.networks import N_MAPS
from napari_volseg.sampling import Batch

__all__ = ["add_gradients", "add_up_ranks", "parts_after"]


def add_gradients(
    network: nn.Module,
    loss: MapLoss,
    scaler: torch.amp.GradScaler,
    compute: Compute,
    micro_batches: Sequence[Batch],
    n_total: int,
    n_parts: int,
) -> Tensor:
    """Add the gradient of this process's share of a step to that of the network.

    Parameters
    ----------
    network, loss
        Both may have weights to learn.
    micro_batches
        The share of this process; may be empty.
    n_total
        Micro-batches of the step, in all processes together.
    n_parts
        Parts that each micro-batch is split into for lack of memory.

    Returns
    -------
    Tensor
        The share of the total loss, then of those of the maps, on the device.
    """
    sums = torch.zeros(1 + N_MAPS, device=compute.device)
    share = 1 / (n_total * n_parts)
    for batch in _split(micro_batches, n_parts):
        image = batch.image_BCZYX.to(
            compute.device, memory_format=compute.memory_format, non_blocking=True
        )
        with compute.autocast():
            outputs = network(image)
        losses = loss(
            outputs,
            batch.targets_BCZYX.to(compute.device, non_blocking=True),
            batch.valid_BCZYX.to(compute.device, non_blocking=True),
        )
        scaler.scale(losses.objective * share).backward()
        sums += share * torch.cat([losses.total.reshape(1), losses.parts])
    return sums


def add_up_ranks(
    network: nn.Module, loss: nn.Module, losses: Tensor, group: Group
) -> Tensor:
    """Add up gradients and losses over all ranks; return the losses.

    Running statistics of norms become their mean over the ranks, so that the
    networks stay alike in everything.
    """
    if group.size == 1:
        return losses
    parameters = [p for m in (network, loss) for p in m.parameters() if p.requires_grad]
    used = torch.tensor(
        [float(p.grad is not None) for p in parameters], device=losses.device
    )
    for parameter in parameters:
        if parameter.grad is None:  # a rank without data has none at all
            parameter.grad = torch.zeros_like(parameter)
    statistics = [b for b in network.buffers() if torch.is_floating_point(b)]
    for buffer in statistics:
        buffer.div_(group.size)
    gradients = [p.grad for p in parameters if p.grad is not None]
    group.add_up([losses, used, *statistics, *gradients])
    for parameter, n_users in zip(parameters, used.tolist(), strict=True):
        if n_users == 0:
            parameter.grad = None
    return losses


def parts_after(n_parts: int, batch_size: int) -> int | None:
    """Return the next finer division of a batch into equal parts.

    None when its parts are single patches already.
    """
    finer = (n for n in range(2 * n_parts, batch_size) if batch_size % n == 0)
    return next(finer, batch_size if n_parts < batch_size else None)


def _split(micro_batches: Sequence[Batch], n_parts: int) -> Iterator[Batch]:
    for batch in micro_batches:
        size = -(-len(batch.image_BCZYX) // n_parts)
        yield from map(
            Batch,
            torch.split(batch.image_BCZYX, size),
            torch.split(batch.targets_BCZYX, size),
            torch.split(batch.valid_BCZYX, size),
        )
