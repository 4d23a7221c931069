"""Find how many patches at a time fit into memory, by trying.

The trial is a step of exactly this training in a throw-away process. A GPU is
tried with the whole batch, which `Learner` makes smaller until it fits. Memory of
the machine is measured with one patch and with two, and never filled.
"""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import torch

from napari_volseg.devices import available_memory, processor_features, use_gpu
from napari_volseg.errors import DataError
from napari_volseg.failures import JobError
from napari_volseg.known import read_known, write_known
from napari_volseg.learner import Learner
from napari_volseg.networks import N_MAPS
from napari_volseg.planning import TrainPlan, plan_from_json, with_batch
from napari_volseg.sampling import Batch

__all__ = ["fit_batch", "run_trial", "try_steps"]

_logger = logging.getLogger(__name__)

_SECONDS = 600
_SHARE = 0.8
"""Share of the machine's free memory that a training may plan to take."""
_GPU_SHARE = 0.95
_LOOK_SECONDS = 0.002
_TOO_LARGE = (
    "a training with one patch at a time does not fit into memory: lower "
    "data.patch_size or model.filters, or close other programs"
)


def fit_batch(plan: TrainPlan) -> tuple[TrainPlan, str | None]:
    """Return the plan with as large a batch as fits, and what to say of it.

    A step sees as many patches as before: what does not fit at a time is added up
    over several batches.

    Raises
    ------
    DataError
        If one patch at a time does not fit.
    """
    wanted = plan.config.system.training.patches_per_batch
    trial = try_steps(plan)
    if "parts" in trial:
        size = wanted // int(trial["parts"])
    else:
        size = _fitting(plan, trial, wanted)
    if size == wanted:
        return plan, None
    factor = wanted // size
    config = with_batch(
        plan.config, size, plan.config.optimization.accumulate_grad_batches * factor
    )
    plan = replace(plan, config=config, micro_batches=plan.micro_batches * factor)
    return plan, (
        f"{size} patches at a time fit into memory, not {wanted}; the gradients of "
        f"{factor} batches are added up, so a step sees {wanted} as before."
    )


def try_steps(plan: TrainPlan) -> dict[str, float]:
    """Do trial steps in a throw-away process and return what it measured.

    Asked again for the same network, patch and machine, it remembers.

    ``parts``: how often a GPU had to divide the batch; or ``one`` and ``two``: bytes
    that a step of as many patches took of the machine's memory.
    """
    known, key = read_known(), _key(plan)
    if key not in known:
        known[key] = _measure(plan)
        write_known(known)
    measured: dict[str, float] = known[key]
    return measured


def _key(plan: TrainPlan) -> str:
    config = plan.config
    tried = [
        "batch",
        config.model.model_dump(mode="json"),
        config.optimization.model_dump(mode="json"),
        config.system.training.batch_size,
        plan.in_channels,
        plan.pyramid,
        plan.patch_size,
        plan.compute,
        plan.gpus,
        torch.__version__,
        processor_features(),
    ]
    text = json.dumps(tried, default=asdict)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _measure(plan: TrainPlan) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "napari_volseg", "try-batch"],
        input=plan.to_json().encode(),
        capture_output=True,
        timeout=_SECONDS,
        check=False,
    )
    if done.returncode == 0:
        measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return measured
    errors = done.stderr.decode("utf-8", "replace").strip()
    _logger.error("the trial of the batch size failed: %s", errors)
    if done.returncode < 0 or "memory" in errors:
        raise DataError(_TOO_LARGE)
    raise JobError(
        f"the trial of the batch size failed ({errors.splitlines()[-1][:200]}): set "
        "system.training.batch_size to a number"
    )


def run_trial(text: str) -> dict[str, float]:
    """Do the trial steps of a plan; called in the throw-away process."""
    plan = plan_from_json(text)
    _be_killed_first()
    if plan.compute.device == "cuda":
        return {"parts": _parts_on_gpu(plan)}
    measured = {}
    with _Peak() as peak:
        learner = _learner(plan)
        learner.learn([_random_batch(plan, 1)])  # loads what is loaded but once
        for name, size in (("one", 1), ("two", 2)):
            peak.forget()
            learner.learn([_random_batch(plan, size)])
            measured[name] = float(peak.bytes)
    return measured


def _parts_on_gpu(plan: TrainPlan) -> int:
    index = plan.gpus[0] if plan.gpus else 0
    use_gpu(index)
    total = torch.cuda.get_device_properties(index).total_memory
    torch.cuda.set_per_process_memory_fraction(
        min(1.0, _GPU_SHARE * available_memory("cuda") / total), index
    )
    learner = _learner(plan)
    learner.learn([_random_batch(plan, plan.config.system.training.patches_per_batch)])
    return learner.record.parts_per_batch


def _learner(plan: TrainPlan) -> Learner:
    return Learner(replace(plan, n_ranks=1, micro_batches=1))


def _random_batch(plan: TrainPlan, size: int) -> Batch:
    targets = torch.rand((size, N_MAPS, *plan.patch_size))
    return Batch(
        torch.rand((size, plan.in_channels, *plan.patch_size)), targets, targets > 0.1
    )


def _fitting(plan: TrainPlan, trial: dict[str, float], wanted: int) -> int:
    """Return the largest part of the wanted batch that the machine's memory holds."""
    per_patch = max(0.0, trial["two"] - trial["one"])
    # The estimate for the data counts it once; every process holds a copy.
    free = _SHARE * available_memory(plan.compute.device) / plan.n_ranks
    sizes = (n for n in range(wanted, 0, -1) if wanted % n == 0)
    for size in sizes:
        if trial["one"] + (size - 1) * per_patch <= free:
            return size
    raise DataError(
        f"a training with one patch at a time needs {trial['one'] / 1e9:.1f} GB and "
        f"{free / 1e9:.1f} GB can be had: lower data.patch_size or model.filters"
    )


def _be_killed_first() -> None:
    """Let the system end this process, not the user's, when memory is short."""
    with suppress(OSError):  # Linux only
        Path("/proc/self/oom_score_adj").write_text("1000")


class _Peak:
    """The most memory that this process took on top of what it had at first.

    Linux notes the peak itself; elsewhere a thread looks many times a second.
    """

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._before = self._process.memory_info().rss
        self._seen = 0
        self._is_noted = _forget_noted_peak()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    @property
    def bytes(self) -> int:
        return (_noted_peak() - self._before) if self._is_noted else self._seen

    def __enter__(self) -> _Peak:
        if not self._is_noted:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        if not self._is_noted:
            self._thread.join()

    def forget(self) -> None:
        """Look for the peak of what comes from now on."""
        self._seen = 0
        if self._is_noted:
            _forget_noted_peak()

    def _look(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            now = self._process.memory_info().rss
            self._seen = max(self._seen, now - self._before)


def _forget_noted_peak() -> bool:
    """Let the peak that Linux notes begin at what is taken now, where that can be."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        _noted_peak()
    except (OSError, StopIteration):
        return False
    return True


def _noted_peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) * 1024 for x in lines if x.startswith("VmHWM"))
