"""The forward pass of windows, with fewer at once when memory runs out."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_volseg.devices import Compute
from napari_volseg.failures import is_out_of_memory
from napari_volseg.forms import Form, build_pass

__all__ = ["Forward"]


class Forward:
    """A network in use, and how many windows it takes at once.

    Parameters
    ----------
    network
        On the device, in evaluation mode.
    form
        How it is computed.
    flips
        Axes of a BCZYX tensor to average mirrored predictions over.
    batch_size
        Windows at once, at first.
    """

    def __init__(
        self,
        network: nn.Module,
        form: Form,
        flips: tuple[int, ...] = (),
        batch_size: int = 1,
    ) -> None:
        self.network, self.form, self.flips = network, form, flips
        self.batch_size = batch_size
        self._pass = build_pass(network, form)
        self._views = [
            tuple(axis for axis, chosen in zip(flips, choice, strict=True) if chosen)
            for choice in product((False, True), repeat=len(flips))
        ]

    @property
    def compute(self) -> Compute:
        """Device and number format."""
        return self.form.compute

    def __call__(self, windows_BCZYX: NDArray[np.float32]) -> Tensor:
        """Return probabilities (B, C, Z, Y, X) on the device.

        When memory runs out, half the windows are tried, and no more than that
        from then on.

        Raises
        ------
        RuntimeError
            If memory does not suffice for a single window.
        """
        windows = torch.from_numpy(windows_BCZYX)
        if self.compute.device == "cuda":
            windows = windows.pin_memory()
        while True:
            try:
                return self._in_batches(windows)
            except Exception as error:
                if not is_out_of_memory(error) or self.batch_size == 1:
                    raise
            # Not above: the error holds the tensors that memory ran out for.
            self.batch_size = max(1, min(self.batch_size, len(windows)) // 2)
            if self.compute.device == "cuda":
                torch.cuda.empty_cache()

    def _in_batches(self, windows: Tensor) -> Tensor:
        parts = torch.split(windows, self.batch_size)
        maps = [self._average(part) for part in parts]
        return maps[0] if len(maps) == 1 else torch.cat(maps)

    @torch.inference_mode()
    def _average(self, windows: Tensor) -> Tensor:
        """Return probabilities, averaged over mirrored inputs."""
        x = windows.to(self.compute.device, non_blocking=True)
        total: Tensor | None = None
        for axes in self._views:
            logits = self._pass(x.flip(axes) if axes else x)
            maps = torch.sigmoid(logits.float())
            maps = maps.flip(axes) if axes else maps
            total = maps if total is None else total.add_(maps)
        assert total is not None
        return total if len(self._views) == 1 else total.div_(len(self._views))
