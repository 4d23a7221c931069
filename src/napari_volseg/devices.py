"""What this machine can compute on, and in which number format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psutil
import torch

from napari_volseg.config import Config
from napari_volseg.errors import DataError

__all__ = [
    "Compute",
    "available_memory",
    "choose_compute",
    "has_fast_bf16",
    "processor_features",
]


@dataclass(frozen=True, slots=True)
class Compute:
    """Where and how a network runs."""

    device: str
    """``cpu``, ``cuda`` or ``mps``."""
    precision: str
    """``32``, ``bf16`` or ``16``: the format of autocast."""
    channels_last: bool
    """Whether tensors are kept as channels_last_3d."""

    def __str__(self) -> str:
        names = {"32": "float32", "bf16": "bfloat16", "16": "float16"}
        layout = ", channels last" if self.channels_last else ""
        return f"{self.device}, {names[self.precision]}{layout}"

    @property
    def memory_format(self) -> torch.memory_format:
        """Memory format of 5D tensors."""
        return torch.channels_last_3d if self.channels_last else torch.contiguous_format

    def autocast(self) -> torch.autocast:
        """Return the context in which the forward pass runs."""
        dtype = torch.float16 if self.precision == "16" else torch.bfloat16
        return torch.autocast(self.device, dtype, enabled=self.precision != "32")


def choose_compute(config: Config) -> Compute:
    """Resolve the device and number format that the configuration asks for.

    Raises
    ------
    DataError
        If the device is not there, or more GPUs are asked for than one.
    """
    device: str = config.system.device
    if device == "auto":
        device = _best_device()
    if device == "cuda" and not torch.cuda.is_available():
        raise DataError(
            "system.device is cuda, but PyTorch finds no CUDA GPU here: set it to "
            "auto or cpu, or install the CUDA build of PyTorch"
        )
    if device == "mps" and not torch.backends.mps.is_available():
        raise DataError(
            "system.device is mps, but there is no Apple GPU here: set it to auto"
        )
    if config.system.training.num_gpus > 1:
        raise DataError(
            f"system.training.num_gpus is {config.system.training.num_gpus}, but this "
            "version trains on one GPU: set it to 1, and raise "
            "optimization.accumulate_grad_batches to keep the effective batch"
        )
    precision = {"auto": "", "32": "32", "bf16-mixed": "bf16", "16-mixed": "16"}[
        config.optimization.precision
    ]
    if device == "cpu" and precision == "16":
        raise DataError(
            "optimization.precision is 16-mixed, which needs a GPU: set it to auto"
        )
    precision = precision or _fast_precision(device)
    layout = precision != "32" and config.model.rsunet_norm != "instance"
    return Compute(device, precision, channels_last=layout and device != "mps")


def available_memory(device: str) -> int:
    """Return the bytes that are free on the device."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return int(psutil.virtual_memory().available)


def processor_features() -> dict[str, Any]:
    """Return what PyTorch knows of the processor; empty where it cannot say."""
    ask = getattr(torch.cpu, "get_capabilities", None)
    return dict(ask()) if ask is not None else {}


def has_fast_bf16() -> bool:
    """Return whether the processor has instructions for bfloat16."""
    features = processor_features()
    return any(features.get(k) for k in ("avx512_bf16", "amx_bf16", "bf16"))


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _fast_precision(device: str) -> str:
    if device == "cuda":
        return (
            "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "16"
        )
    return "bf16" if device == "cpu" and has_fast_bf16() else "32"
