"""Batches prepared ahead of the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from napari_volseg.sampling.source import Batch, PatchSource

__all__ = ["batches"]


def batches(
    source: PatchSource,
    first_step: int,
    micro_batches: Sequence[int],
    n_workers: int,
    *,
    device: str = "cpu",
) -> Iterator[list[Batch]]:
    """Yield the micro-batches of each step, prepared ahead by threads.

    What fails while a patch is prepared is raised here, at the step it belongs to.

    Parameters
    ----------
    micro_batches
        Places of the wanted ones among all of a step: everything for one process,
        every n-th for one of n that train together.
    device
        Where the batches are needed: for ``cuda`` they lie in page-locked memory, from
        which copies are faster.
    """

    def draw(step: int, micro_batch: int) -> Batch:
        batch = source.batch(step, micro_batch)
        return batch.pinned() if device == "cuda" else batch

    if n_workers == 0:
        step = first_step
        while True:
            yield [draw(step, i) for i in micro_batches]
            step += 1
    ahead = max(2, -(-n_workers // max(1, len(micro_batches))) + 1)
    with ThreadPoolExecutor(n_workers, "volseg-patches") as pool:
        queue: list[list[Future[Batch]]] = []
        step = first_step
        try:
            while True:
                while len(queue) < ahead:
                    queue.append([pool.submit(draw, step, i) for i in micro_batches])
                    step += 1
                yield [future.result() for future in queue.pop(0)]
        finally:
            for futures in queue:
                for future in futures:
                    future.cancel()
