"""Sweeps whose workers are real processes with a few lines in place of a training."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from napari_volseg.config import build_config
from napari_volseg.io import write_hdf5
from napari_volseg.runs import Worker, launch
from napari_volseg.sweeps import Sweep, create_sweep, parse_space

WORKER = """
import json, math, pathlib, re, sys, time

folder = pathlib.Path(sys.argv[1])
config = (folder / "config.yaml").read_text()
number = lambda key: float(re.search(rf"\\\\b{key}: ([-+.e0-9]+)", config)[1])
behaviour = re.search(r"description: '?(\\\\w*)", config)[1]
score = 1 - abs(math.log10(number("lr")) + 3) / 4

def say(**fields):
    with (folder / "events.jsonl").open("a") as file:
        file.write(json.dumps(fields) + "\\\\n")

def stopped():
    try:
        return json.loads((folder / "control.json").read_text())["stop"]
    except OSError:
        return False

def finish(reason, **metrics):
    fields = dict(reason=reason, message=reason, path=None, metrics=metrics)
    (folder / "result.json.tmp").write_text(json.dumps(fields))
    (folder / "result.json.tmp").replace(folder / "result.json")
    sys.exit(0)

if behaviour == "crash":
    sys.exit("no such luck")
first = 4 if "--resume" in sys.argv else 0
say(event="Started", job="train", device="cpu, float32", total=5, step=first)
(folder / "checkpoints").mkdir(exist_ok=True)
for step in range(first + 1, 6):
    say(event="Progress", step=step, total=5, elapsed=step)
    say(event="Validated", step=step, best=True,
        metrics={"f1_50": score * step / 5, "loss": 1 - score * step / 5})
    (folder / "checkpoints" / "last.ckpt").touch()
    waits = {"hang": 10**6 * (step == 4 and not first), "lag": 20 * (score < 0.8)}
    for _ in range(waits.get(behaviour, 0)):
        if stopped():
            finish("stopped")
        time.sleep(0.02)
finish("completed", f1_50=score, loss=1 - score)
""".replace("\\\\", "\\")

SPACE = ["optimization.optimizer.lr=log:1e-5:1e-1"]


@pytest.fixture
def start() -> Callable[[Path, bool], Worker]:
    """Launch the small worker through the interface of the real one."""

    def start_worker(folder: Path, resume: bool) -> Worker:
        command = [sys.executable, "-S", "-c", WORKER, str(folder)]
        command += ["--resume"] if resume else []
        return launch(folder, resume=resume, command=command)

    return start_worker


@pytest.fixture
def data(tmp_path, cells) -> dict[str, str]:
    """Write labelled data; return its settings."""
    path = tmp_path / "em.h5"
    arrays = {"raw": cells.image.data, "labels": cells.labels_ZYX}
    write_hdf5(path, arrays, cells.image.voxel_size)
    return {"train_image": f"{path}:raw", "train_label": f"{path}:labels"}


@pytest.fixture
def make_sweep(tmp_path, data) -> Callable[..., Sweep]:
    """Return a factory of sweeps over the learning rate, or another space."""

    def make(
        *settings: str, behaviour: str = "plain", n_trials: int = 3, **more: object
    ):
        config = build_config(
            {"description": behaviour, "data": {**data, "patch_size": [8, 16, 16]}}
        )
        space, _ = parse_space(settings or SPACE)
        runs = tmp_path / "runs"
        return create_sweep(config, space, runs, "s", n_trials=n_trials, **more)

    return make
