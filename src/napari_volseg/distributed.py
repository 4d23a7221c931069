"""Processes that train one network together, and what they say to each other.

Every process, or rank, holds the whole network and computes the gradient of its
share of a step. The gradients are added up, so all ranks take the same step and
their networks stay alike. Rank 0 leads: it alone validates, saves and decides.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = [
    "ALONE",
    "Group",
    "PeerLostError",
    "join_by_address",
    "join_by_file",
    "leave",
    "synchronise_norms",
]

Phase = Literal["preparing", "waiting", "stepping", "busy"]

_BUCKET_BYTES = 64 * 2**20
"""Gradients are added up in pieces of about this size, copied for that."""
_PATIENCE = timedelta(days=7)
"""Longest wait for another rank where a supervisor ends hung ones long before."""
_CLUSTER_PATIENCE = timedelta(hours=1)
"""The same where none does: longer than the first rank takes to validate."""


class PeerLostError(RuntimeError):
    """Another process of the group is gone or does not answer."""


class Group:
    """One process's place among those that train together.

    A group of one answers at once and talks to nobody.

    Parameters
    ----------
    rank, size
        Number of this process from 0, and how many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size
        self.phase: Phase = "preparing"
        """What this process does now; a supervisor tells from it who is hung."""
        self.longest_step = 0.0
        """Seconds of the longest step so far, without waiting for others."""
        self.n_turns = 0
        """Changes of phase so far: a process that is not hung goes on counting."""
        self._waited = 0.0

    @property
    def leads(self) -> bool:
        """Whether this process validates, saves and decides."""
        return self.rank == 0

    def send(self, order: dict[str, Any]) -> None:
        """Give every other rank an order: tensors and plain values."""
        if self.size == 1:
            return
        buffer = io.BytesIO()
        torch.save(order, buffer)
        data = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
        with self._waiting():
            dist.broadcast(torch.tensor([data.numel()]), 0)
            dist.broadcast(data, 0)

    def receive(self) -> dict[str, Any]:
        """Wait for the next order of rank 0."""
        with self._waiting():
            size = torch.zeros(1, dtype=torch.int64)
            dist.broadcast(size, 0)
            data = torch.zeros(int(size), dtype=torch.uint8)
            dist.broadcast(data, 0)
        buffer = io.BytesIO(data.numpy().tobytes())
        order: dict[str, Any] = torch.load(buffer, weights_only=True)
        return order

    def any(self, verdict: bool) -> bool:
        """Return whether any rank says yes: the same answer in all of them."""
        if self.size == 1:
            return verdict
        flag = torch.tensor([int(verdict)])
        with self._waiting():
            dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over all ranks, the same bits in each.

        The tensors are float32, on one device, of the same shapes in every rank.
        """
        if self.size == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([t.reshape(-1) for t in bucket])
            with self._waiting():
                dist.all_reduce(flat)
            parts = torch.split(flat, [t.numel() for t in bucket])
            for tensor, part in zip(bucket, parts, strict=True):
                tensor.copy_(part.view(tensor.shape))

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """Mark the work of one step: the others wait for its end."""
        began, waited = time.monotonic(), self._waited
        with self._phase("stepping"):
            yield
        took = time.monotonic() - began - (self._waited - waited)
        self.longest_step = max(self.longest_step, took)

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        began = time.monotonic()
        try:
            with self._phase("waiting"):
                yield
        except RuntimeError as error:  # all that a backend raises derives from it
            raise PeerLostError(
                f"rank {self.rank} lost the others: {' '.join(str(error).split())}"
            ) from error
        finally:
            self._waited += time.monotonic() - began

    @contextmanager
    def _phase(self, phase: Phase) -> Iterator[None]:
        before, self.phase = self.phase, phase
        self.n_turns += 1
        try:
            yield
        finally:
            self.phase = before
            self.n_turns += 1


ALONE = Group()
"""The group of a process that trains by itself."""


def join_by_file(rank: int, size: int, path: Path, device: str) -> Group:
    """Meet the other ranks of this machine through a file that is theirs alone."""
    store = dist.FileStore(str(path), size)  # type: ignore[attr-defined]
    return _join(rank, size, device, _PATIENCE, store=store)


def join_by_address(device: str) -> Group:
    """Meet the ranks of a cluster as RANK, WORLD_SIZE and MASTER_ADDR say."""
    return _join(-1, -1, device, _CLUSTER_PATIENCE, init_method="env://")


def synchronise_norms(network: nn.Module, group: Group) -> nn.Module:
    """Let batch norms see the batches of all ranks as one; GPUs only."""
    if group.size == 1:
        return network
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return converted


def leave() -> None:
    """Part from the others, when all of them have done their work."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _join(
    rank: int, size: int, device: str, patience: timedelta, **where: Any
) -> Group:
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
        rank=rank,
        world_size=size,
        timeout=patience,
        **where,
    )
    return Group(dist.get_rank(), dist.get_world_size())


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    n_bytes = 0
    for tensor in tensors:
        bucket.append(tensor)
        n_bytes += tensor.numel() * tensor.element_size()
        if n_bytes >= _BUCKET_BYTES:
            yield bucket
            bucket, n_bytes = [], 0
    if bucket:
        yield bucket
