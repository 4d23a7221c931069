"""Trials of the forms of a network.

A trial is a few forward passes over windows of the image in a throw-away process, so
that a form that crashes costs nothing. What was found is remembered for this machine.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_volseg.checkpoint import load_model
from napari_volseg.converted import has_openvino
from napari_volseg.devices import processor_features
from napari_volseg.forms import Form, build_pass, form_from_dict, to_device
from napari_volseg.io import content_hash
from napari_volseg.known import read_known, write_known

__all__ = ["Trial", "known_trials", "run_form_trials", "try_forms"]

_MEAN, _HIGH, _SHARE = 1.0, 8.0, 0.999
"""Grey levels of the maps (of 255) by which a form may differ from PyTorch in float32:
on average, and in this share of the voxels."""
_HOPELESS = 3.0
"""A form whose first pass takes this many times the fastest is not timed again."""
_LONG = 5.0
"""Seconds of a pass after which there is no further one to be sure."""
_SECONDS = 300.0
"""All forms together; those that would be tried later are left out."""
_TICK = 0.1
_SPEC, _WINDOWS, _RESULTS = "spec.json", "windows.npy", "results.jsonl"


@dataclass(frozen=True, slots=True)
class Trial:
    """What trying a form showed."""

    form: Form
    seconds: float = 0.0
    """Of a forward pass."""
    mean: float = 0.0
    """Difference to PyTorch in float32, in grey levels of the maps, on average."""
    high: float = 0.0
    """The same, in all but one of a thousand voxels."""
    failure: str = ""
    """Why it cannot be used, if it cannot be computed at all."""

    @property
    def agrees(self) -> bool:
        """Whether its maps are those of PyTorch in float32, as far as one can see."""
        return not self.failure and self.mean <= _MEAN and self.high <= _HIGH


def known_trials(
    model_path: Path,
    forms: list[Form],
    windows: NDArray[np.float32],
    should_stop: Callable[[], bool],
) -> list[Trial]:
    """Return the trials of an earlier time, or try now and remember.

    Parameters
    ----------
    model_path
        The model whose network is tried.
    forms
        The default first; there are fewer trials than forms where time runs out.
    windows
        Two batches of windows (B, C, Z, Y, X), normalised.
    should_stop
        Asked several times a second; once it says so, nothing is remembered.
    """
    known = read_known()
    keys = [_key(model_path, form, windows.shape) for form in forms]
    try:
        return [_from_dict(known[key]) for key in keys]
    except (KeyError, TypeError):
        trials = _try_in_process(model_path, forms, windows, should_stop)
    if not should_stop():
        found = {trial.form: _to_dict(trial) for trial in trials}
        known.update(
            {k: found[f] for k, f in zip(keys, forms, strict=True) if f in found}
        )
        write_known(known)
    return trials


def try_forms(
    network: nn.Module,
    forms: Sequence[Form],
    batches: Sequence[Tensor],
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Trial]:
    """Time forward passes in each form and compare their maps.

    Parameters
    ----------
    forms
        Eager float32 is compared with, and tried first.
    batches
        Windows (B, C, Z, Y, X); at least two batches of them.
    clock
        Seconds.
    """
    first = forms[0].compute
    exact = Form(replace(first, precision="32", channels_last=False))
    expected: list[Tensor] = []
    best = float("inf")
    for form in dict.fromkeys([exact, *forms]):
        try:
            trial, maps = _try_form(network, form, batches, expected, best, clock)
        except Exception as error:  # noqa: BLE001  # of any library that computes
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            trial, maps = Trial(form, failure=reason), []
        if form == exact:
            if trial.failure:
                return  # there is nothing to compare with
            expected = maps
        if not trial.failure:
            best = min(best, trial.seconds)
        if form in forms:
            yield trial


def _try_form(
    network: nn.Module,
    form: Form,
    batches: Sequence[Tensor],
    expected: Sequence[Tensor],
    best: float,
    clock: Callable[[], float],
) -> tuple[Trial, list[Tensor]]:
    forward = build_pass(to_device(network, form.compute), form)
    times, maps = [], []
    for i, batch in enumerate([*batches, batches[0]]):
        started = clock()
        with torch.inference_mode():
            logits = forward(batch.to(form.compute.device))
            if form.compute.device == "cuda":
                torch.cuda.synchronize()
        times.append(clock() - started)
        if i < len(batches):
            maps.append(255 * torch.sigmoid(logits.float()).cpu())
        is_hopeless = form.engine == "eager" and times[0] > _HOPELESS * best
        if is_hopeless or (i > 0 and times[i] > _LONG):
            break
    if not expected:
        return Trial(form, min(times[1:] or times)), maps
    apart = torch.cat(
        [(a - b).abs().flatten() for a, b in zip(maps, expected, strict=False)]
    ).numpy()
    high = float(np.quantile(apart, _SHARE))
    return Trial(form, min(times[1:] or times), float(apart.mean()), high), maps


def run_form_trials(folder: Path) -> None:
    """Try the forms that a folder describes; called in the throw-away process."""
    spec = json.loads((folder / _SPEC).read_text("utf-8"))
    torch.set_num_threads(spec["threads"])
    windows = torch.from_numpy(np.load(folder / _WINDOWS))
    forms = [form_from_dict(values) for values in spec["forms"]]
    batches = list(torch.split(windows, len(windows) // 2))
    network = load_model(Path(spec["model"])).network
    with (folder / _RESULTS).open("w", encoding="utf-8") as file:
        for trial in try_forms(network, forms, batches):
            file.write(json.dumps(_to_dict(trial)) + "\n")
            file.flush()


def _key(model_path: Path, form: Form, shape: tuple[int, ...]) -> str:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    tried = [
        "form",
        content_hash(str(model_path)),
        form.to_dict(),
        shape,
        torch.get_num_threads(),
        psutil.cpu_count(),
        processor_features(),
        gpu,
        torch.__version__,
        version("openvino") if has_openvino() else "",
    ]
    return hashlib.sha256(json.dumps(tried).encode()).hexdigest()[:32]


def _try_in_process(
    model_path: Path,
    forms: list[Form],
    windows: NDArray[np.float32],
    should_stop: Callable[[], bool],
) -> list[Trial]:
    """Try forms in a process; one that crashes it has failed, others go on."""
    trials: list[Trial] = []
    deadline = time.monotonic() + _SECONDS

    def is_over() -> bool:
        return should_stop() or time.monotonic() > deadline

    with tempfile.TemporaryDirectory(prefix="volseg-forms-") as place:
        folder = Path(place)
        np.save(folder / _WINDOWS, windows)
        while len(trials) < len(forms):
            rest = forms[len(trials) :]
            spec = {
                "model": str(model_path.absolute()),
                "threads": torch.get_num_threads(),
                "forms": [form.to_dict() for form in rest],
            }
            (folder / _SPEC).write_text(json.dumps(spec), "utf-8")
            (folder / _RESULTS).unlink(missing_ok=True)
            code = _run_process(folder, is_over)
            done = _read_results(folder / _RESULTS)
            trials += done
            if code is None or (code == 0 and not done):
                break  # out of time, or there is no float32 to compare with
            if len(done) < len(rest):
                trials.append(Trial(rest[len(done)], failure=f"it crashes ({code})"))
    return trials


def _run_process(folder: Path, is_over: Callable[[], bool]) -> int | None:
    """Try the forms of a folder; return the exit code, None if it is over before."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "napari_volseg", "helper", "try-forms", folder],
        stdin=subprocess.PIPE,  # the process ends when this one does
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while process.poll() is None and not is_over():
            time.sleep(_TICK)
        return process.poll()
    finally:
        process.kill()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()


def _read_results(path: Path) -> list[Trial]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError:
        return []
    return [_from_dict(json.loads(line)) for line in lines if line.endswith("}")]


def _to_dict(trial: Trial) -> dict[str, Any]:
    return {
        "form": trial.form.to_dict(),
        "seconds": trial.seconds,
        "mean": trial.mean,
        "high": trial.high,
        "failure": trial.failure,
    }


def _from_dict(values: dict[str, Any]) -> Trial:
    return Trial(**{**values, "form": form_from_dict(values["form"])})
