"""What this machine can compute on, and in which number format."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from napari_volseg.config import Config
from napari_volseg.errors import DataError

__all__ = [
    "Compute",
    "available_memory",
    "choose_compute",
    "choose_gpus",
    "has_fast_bf16",
    "processor_features",
    "use_gpu",
    "use_threads",
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
        If the device is not there, or cannot do the number format.
    """
    device: str = config.system.device
    if device == "auto":
        device = _best_device(config)
    if device == "cuda" and not torch.cuda.is_available():
        raise DataError(
            f"system.device is cuda, but {_no_gpu()}: set it to auto or cpu, or "
            "install the CUDA build of PyTorch"
        )
    if device == "mps" and not torch.backends.mps.is_available():
        raise DataError(
            "system.device is mps, but there is no Apple GPU here: set it to auto"
        )
    precision = {"auto": "", "32": "32", "bf16-mixed": "bf16", "16-mixed": "16"}[
        config.optimization.precision
    ]
    if device == "cpu" and precision == "16":
        raise DataError(
            "optimization.precision is 16-mixed, which needs a GPU: set it to auto"
        )
    precision = precision or _fast_precision(device)
    return Compute(device, precision, _suits_channels_last(config, device, precision))


def choose_gpus(config: Config, device: str) -> tuple[int, ...]:
    """Return the indices of the GPUs to train on, one for each process.

    Parameters
    ----------
    device
        What `choose_compute` chose; on any but ``cuda`` there are none.

    Raises
    ------
    DataError
        If more are asked for than there are, or both GPUs and several processes
        on the processor.
    """
    training = config.system.training
    wanted = training.gpus if training.gpus is not None else range(training.num_gpus)
    if device != "cuda":
        _refuse_gpus(len(wanted), device)
        if device == "mps" and training.num_processes > 1:
            raise DataError(_several_processes(training.num_processes))
        return ()
    present = torch.cuda.device_count()
    if training.num_processes > 1:
        raise DataError(_several_processes(training.num_processes))
    if training.gpus is None and training.num_gpus > present:
        raise DataError(
            f"system.training.num_gpus is {training.num_gpus}, but PyTorch finds "
            f"{present} here: set it to {present}; {_same_batch(len(wanted), present)}"
        )
    if not wanted:
        raise DataError(
            "system.device is cuda, but no GPU is asked for: set "
            "system.training.num_gpus=1, or system.device=cpu"
        )
    if len(set(wanted)) < len(wanted) or max(wanted) >= present:
        usable = sorted({i for i in wanted if i < present}) or [0]
        raise DataError(
            f"system.training.gpus is {list(wanted)}, but the GPUs here are "
            f"{list(range(present))}: set it to {usable}"
        )
    return tuple(wanted)


def available_memory(device: str) -> int:
    """Return the bytes that are free on the device."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    free = int(psutil.virtual_memory().available)
    return min([free, *_allotted(Path("/sys/fs/cgroup"))])


def _allotted(cgroup: Path) -> list[int]:
    """Return what a container or cluster job may still take, where that is limited."""
    try:
        limit = int((cgroup / "memory.max").read_text())  # 'max' without a limit
        used = int((cgroup / "memory.current").read_text())
        cache = dict(
            line.split() for line in (cgroup / "memory.stat").read_text().splitlines()
        ).get("inactive_file", "0")
    except (OSError, ValueError):
        return []
    return [max(0, limit - used + int(cache))]


def use_gpu(index: int) -> None:
    """Let ``cuda`` mean one of several GPUs, in this process."""
    torch.cuda.set_device(index)


def use_threads(n_processes: int) -> None:
    """Take this process's share of the processor's cores, unless the user chose."""
    if "OMP_NUM_THREADS" not in os.environ:
        cores = psutil.cpu_count(logical=False) or 1
        torch.set_num_threads(max(1, cores // n_processes))


def processor_features() -> dict[str, Any]:
    """Return what PyTorch knows of the processor; empty where it cannot say."""
    ask = getattr(torch.cpu, "get_capabilities", None)
    return dict(ask()) if ask is not None else {}


def has_fast_bf16() -> bool:
    """Return whether the processor has instructions for bfloat16."""
    features = processor_features()
    return any(features.get(k) for k in ("avx512_bf16", "amx_bf16", "bf16"))


def _refuse_gpus(n_gpus: int, device: str) -> None:
    if n_gpus <= 1:
        return
    where = "the processor" if device == "cpu" else "the one Apple GPU"
    why = _no_gpu() if not torch.cuda.is_available() else f"system.device is {device}"
    raise DataError(
        f"system.training.num_gpus is {n_gpus}, but {why}: set num_gpus=1 to train on "
        f"{where}; {_same_batch(n_gpus, 1)}"
    )


def _same_batch(wanted: int, present: int) -> str:
    factor = -(-wanted // present)
    return (
        f"optimization.accumulate_grad_batches times {factor} keeps as many patches in "
        "each step"
    )


def _several_processes(n_processes: int) -> str:
    return (
        f"system.training.num_processes is {n_processes}, which is for training on the "
        "processor: set it to 1 (num_gpus and gpus choose GPUs), or system.device=cpu"
    )


def _no_gpu() -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in {"", "-1"}:
        return "CUDA_VISIBLE_DEVICES hides every GPU"
    return "PyTorch finds no CUDA GPU here"


def _suits_channels_last(config: Config, device: str, precision: str) -> bool:
    """Return whether steps are faster with the channels of a voxel side by side.

    Instance normalisation undoes what the convolutions gain, except in half precision
    on GPUs: there cuDNN takes four times as long for other layouts.
    """
    if device == "mps":
        return False
    if config.model.rsunet_norm == "instance":
        return device == "cuda" and precision != "32"
    return precision != "32" or config.model.architecture == "rsunet"


def _best_device(config: Config) -> str:
    training = config.system.training
    gpus = training.num_gpus if training.gpus is None else len(training.gpus)
    if gpus == 0:
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _fast_precision(device: str) -> str:
    if device == "cuda":
        return (
            "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "16"
        )
    return "bf16" if device == "cpu" and has_fast_bf16() else "32"
