"""Train, predict and score on real volumes, with one preset a kind of data.

Usage: python benchmarks/real_data.py DATA_FOLDER [--only NAME] [--minutes N]
       [--preset NAME] [section.key=value …]

The volumes are HDF5 files with the datasets `raw` and `labels`; see README.md here.
Prints JSON, and writes run folders, predictions and pictures under --output.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_volseg.demo.figures import (
    colour_labels,
    colour_map,
    encode_png,
    matching_colours,
    to_grey,
)
from napari_volseg.demo.screens import take_screenshot
from napari_volseg.events import Progress, Started
from napari_volseg.io import open_volume, read_labels, write_hdf5
from napari_volseg.runs import list_runs, read_events


@dataclass(frozen=True)
class Task:
    """One kind of data: what to learn from and what to predict."""

    preset: str
    train: tuple[tuple[str, str], ...]
    """File and slices of each training volume."""
    test: tuple[str, str]
    min_size: int
    """Smaller objects and instances do not count, in voxels."""


TASKS = {
    "nuclei": Task(
        preset="nuclei",
        train=(("bbbc050_emb01_t501.h5", ""), ("bbbc050_emb11_t451.h5", "")),
        test=("bbbc050_emb05_t501.h5", ""),
        min_size=100,
    ),
    "chloroplasts": Task(
        preset="mitochondria",
        train=(("plant_chloroplast_em.h5", "[:,0:780,:]"),),
        test=("plant_chloroplast_em.h5", "[:,800:1170,:]"),
        min_size=100,
    ),
    "root-cells": Task(
        preset="cells",
        train=(("root_membrane_cells.h5", "[:,:,0:130]"),),
        test=("root_membrane_cells.h5", "[:,:,140:200]"),
        min_size=100,
    ),
    "neurons": Task(
        preset="neurons",
        train=(("flyem_fib25_neurons.h5", "[0:100,:,:]"),),
        test=("flyem_fib25_neurons.h5", "[105:150,:,:]"),
        min_size=100,
    ),
    "noisy-nuclei": Task(
        preset="nuclei",
        train=(("gonuclear_1135.h5", "[0:65,:,:]"),),
        test=("gonuclear_1135.h5", "[70:100,:,:]"),
        min_size=100,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", choices=TASKS)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--preset", help="in place of the preset of the kind of data")
    parser.add_argument("--output", type=Path, default=Path("demo-output/real-data"))
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    args = parser.parse_intermixed_args()
    results = {
        name: run_task(
            name,
            replace(task, preset=args.preset or task.preset),
            args.data,
            args.output,
            args.minutes,
            args.settings,
        )
        for name, task in TASKS.items()
        if args.only in (None, name)
    }
    print(json.dumps(results, indent=2))


def run_task(
    name: str,
    task: Task,
    data: Path,
    output: Path,
    minutes: float,
    settings: list[str],
) -> dict[str, Any]:
    output.mkdir(parents=True, exist_ok=True)
    seconds = {}
    words = ["train", task.preset, f"optimization.max_minutes={minutes:g}", *settings]
    for file, part in task.train:
        words += ["--image", f"{data / file}:raw{part}"]
        words += ["--label", f"{data / file}:labels{part}"]
    words += ["--runs", str(output / "runs"), "--name", name]
    seconds["train"] = call(*words)[1]
    run = list_runs(output / "runs")[0].folder

    prediction = output / f"{run.name}.h5"
    file, part = task.test
    image, truth = f"{data / file}:raw{part}", f"{data / file}:labels{part}"
    seconds["predict"] = call("predict", str(run), image, "-o", str(prediction))[1]
    answer, seconds["evaluate"] = call(
        *("evaluate", f"{prediction}:instances", truth),
        *("--min-size", str(task.min_size), "--json"),
    )
    save_picture(output / f"{run.name}.png", image, truth, prediction)
    save_screenshot(output / f"{run.name}-napari.png", image, truth, prediction)
    events = read_events(run)
    return {
        **json.loads(answer),
        "steps": max((e.step for e in events if isinstance(e, Progress)), default=0),
        "device": next((e.device for e in events if isinstance(e, Started)), None),
        "seconds": {key: round(value, 1) for key, value in seconds.items()},
        "run": str(run),
    }


def call(*words: str) -> tuple[str, float]:
    """Run a `volseg` command; return what it printed and how long it took."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "napari_volseg", *words],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout, time.perf_counter() - started


def save_screenshot(path: Path, image: str, truth: str, prediction: Path) -> None:
    volume = open_volume(image)
    labels = read_labels(truth)
    with tempfile.TemporaryDirectory() as folder:
        both = Path(folder) / "volume.h5"
        arrays = {"raw": volume.read()[0], "labels": labels}
        write_hdf5(both, arrays, volume.voxel_size)
        if problem := take_screenshot(both, prediction, path):
            print(f"no screenshot of napari: {problem}", file=sys.stderr)


def save_picture(path: Path, image: str, truth: str, prediction: Path) -> None:
    """Write raw, instances, truth above mask, boundary, distance of one slice."""
    raw = open_volume(image).read()[0]
    labels, found = read_labels(truth), read_labels(f"{prediction}:instances")
    maps = np.asarray(open_volume(f"{prediction}:maps").read(), np.uint8)
    labelled = np.count_nonzero(labels, axis=(1, 2))
    z = int(np.argmax(labelled))
    low, high = np.quantile(raw, (0.005, 0.995))
    grey = to_grey(raw[z], float(low), float(high))
    true_colours, found_colours, _ = matching_colours(labels, found)
    top = [
        grey,
        colour_labels(found[z], found_colours, grey),
        colour_labels(labels[z], true_colours, grey),
    ]
    channels = ("mask", "boundary", "distance")
    bottom = [colour_map(maps[i, z], channel) for i, channel in enumerate(channels)]
    picture = np.concatenate([np.concatenate(row, axis=1) for row in (top, bottom)])
    zoom = max(1, 1200 // picture.shape[1])
    path.write_bytes(encode_png(picture, zoom))


if __name__ == "__main__":
    main()
