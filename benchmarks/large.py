"""Predict volumes of rising size from disk to labels, and kill one on its way.

Usage: python benchmarks/large.py [--sizes MVOX …] [--kills N] [--minutes N]
       [--filters N …] [--norm NAME] [--window Z Y X] [--overlap SHARE]
       [--folder FOLDER]

A small network learns generated cells for a minute. Volumes of cells are written as
Zarr and predicted by `volseg predict`, each in a process of its own. Prints JSON: for
every size the million voxels a second from disk to labels, those of bare forward passes
of the same windows, the share of the two, and the most memory that a process took. The
smallest volume is then predicted again while it is killed at random points and resumed;
`is_equal` says whether maps and instances are those of the first time, voxel by voxel.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from napari_volseg.allocator import keep_freed_memory
from napari_volseg.checkpoint import load_model
from napari_volseg.config import InferenceConfig
from napari_volseg.io import create_zarr, open_volume, write_hdf5
from napari_volseg.mapjob import prepare_maps
from napari_volseg.sample_data import make_sample

TILE = (64, 256, 256)
NM = (30.0, 8.0, 8.0)
PATCH = "data.patch_size=[16,64,64]"


def main() -> None:
    keep_freed_memory()  # as every process of volseg does
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 256])
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=1.0, help="of training")
    parser.add_argument("--filters", nargs="+", type=int, default=[4, 8, 16])
    parser.add_argument("--norm", default="group")
    parser.add_argument("--window", nargs=3, type=int, default=[32, 128, 128])
    parser.add_argument("--overlap", type=float, default=0.25)
    parser.add_argument(
        "--folder", type=Path, help="where there is room; else a new one"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as place:
        folder = Path(place)
        model = train(folder, args.minutes, args.filters, args.norm)
        inference = InferenceConfig(
            window_size=tuple(args.window), overlap=args.overlap
        )
        found: dict[str, Any] = {"threads": os.cpu_count()}
        for size in sorted(args.sizes):
            task = Prediction(model, make_volume(folder, size), folder, inference)
            found[f"{size} Mvox"] = measure(task)
            print(json.dumps(found), file=sys.stderr, flush=True)
            if args.kills and size == min(args.sizes):
                seconds = found[f"{size} Mvox"]["seconds"]
                found["killed"] = kill(task, args.kills, seconds)
            shutil.rmtree(task.em)
        print(json.dumps(found, indent=2))


def volseg(*words: str) -> list[str]:
    return [sys.executable, "-m", "napari_volseg", *words]


def train(folder: Path, minutes: float, filters: list[int], norm: str) -> Path:
    """Return the folder of a training on generated cells."""
    sample = make_sample("cells", TILE)
    write_hdf5(folder / "cells.h5", {"raw": sample.image.data}, NM)
    write_hdf5(folder / "labels.h5", {"labels": sample.labels_ZYX}, NM)
    words = ["train", "quick", f"optimization.max_minutes={minutes:g}", PATCH]
    words += [f"model.filters={filters}", f"model.rsunet_norm={norm}"]
    words += ["--image", f"{folder / 'cells.h5'}:raw"]
    words += ["--label", f"{folder / 'labels.h5'}:labels"]
    words += ["--runs", str(folder / "runs"), "--name", "cells"]
    subprocess.run(volseg(*words), check=True, stdout=sys.stderr)
    return folder / "runs" / "cells"


def make_volume(folder: Path, size: int) -> Path:
    """Write an image of about `size` million voxels, each block moved and noisy."""
    n = max(1, round(size * 1e6 / np.prod(TILE)))
    n_z = max(1, min(16, round((4 * n) ** (1 / 3))))
    n_y = max(1, round((n / n_z) ** 0.5))
    counts = (n_z, n_y, max(1, round(n / n_z / n_y)))
    shape = tuple(a * b for a, b in zip(counts, TILE, strict=True))
    path = folder / "em.zarr"
    image = create_zarr(path, shape, np.uint8, NM, name="em", block=(64,) * 3)
    tile = np.asarray(make_sample("cells", TILE).image.data)
    rng = np.random.default_rng(0)
    for place in np.ndindex(counts):
        moved = np.roll(tile, rng.integers(0, 256, 2), axis=(1, 2)).astype(np.int16)
        moved += rng.integers(-2, 3, TILE, np.int16)
        block = tuple(
            slice(p * n, (p + 1) * n) for p, n in zip(place, TILE, strict=True)
        )
        image[block] = np.clip(moved, 0, 255).astype(np.uint8)
    return path


@dataclass(frozen=True, slots=True)
class Prediction:
    """A volume, and how it is predicted."""

    model: Path
    em: Path
    folder: Path
    inference: InferenceConfig

    @property
    def out(self) -> Path:
        """Where maps and instances are written."""
        return self.folder / "out.zarr"

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        """Predict in a process of its own."""
        words = ["predict", str(self.model), str(self.em), "-o", str(self.out), *more]
        words += [f"inference.window_size={list(self.inference.window_size or ())}"]
        words += [f"inference.overlap={self.inference.overlap}"]
        return subprocess.Popen(volseg(*words), stdout=subprocess.PIPE)


def measure(task: Prediction) -> dict[str, Any]:
    """Predict; pass as many windows through the network."""
    shutil.rmtree(task.out, ignore_errors=True)
    started = time.perf_counter()
    process = task.start("--json")
    assert process.stdout is not None
    answer = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the prediction ended with {process.returncode}")
    seconds = time.perf_counter() - started
    n_voxels = float(np.prod(open_volume(str(task.em)).shape_ZYX))
    bare = forward_rate(task)
    rate = n_voxels / seconds / 1e6
    return {
        "mvox": round(n_voxels / 1e6, 1),
        "gb_on_disk": round(size_of(task.em) / 1e9, 2),
        "seconds": round(seconds, 1),
        "mvox_per_second": round(rate, 3),
        "forward_mvox_per_second": round(bare, 3),
        "share_of_forward": round(rate / bare, 3),
        "peak_gb": round(used.ru_maxrss * 1024 / 1e9, 2),
        "n_instances": json.loads(answer)["n_instances"],
    }


def forward_rate(task: Prediction) -> float:
    """Return the million voxels a second of bare passes of the volume's windows."""
    place = Path(tempfile.mkdtemp(dir=task.folder))
    job = prepare_maps(
        task.model / "model.safetensors",
        load_model(task.model / "model.safetensors"),
        open_volume(str(task.em)),
        place,
        inference=task.inference,
        device="cpu",
    )
    n_windows = job.plan().n_windows
    window = np.random.default_rng(0).random((1, 1, *job.window), np.float32)
    job.forward(window)
    n_timed = min(n_windows, 200)
    started = time.perf_counter()
    for _ in range(n_timed):
        job.forward(window)
    seconds = (time.perf_counter() - started) * n_windows / n_timed
    shutil.rmtree(place)
    return float(np.prod(job.image.shape_ZYX)) / seconds / 1e6


def kill(task: Prediction, times: int, seconds: float) -> dict[str, Any]:
    """Kill a prediction at random points, then let it end."""
    expected = digest(task.out)
    shutil.rmtree(task.out)
    rng = random.Random(0)
    points = []
    for i in range(times):
        process = task.start(*(["--resume"] if i else []))
        # The start, where PyTorch is imported, is no point to be killed at.
        patience = 5 + (seconds - 5) * rng.uniform(0.1, 0.9) / times
        try:
            process.wait(patience)
            raise SystemExit("a prediction ended before it was killed")
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        points.append(round(patience, 1))
    task.start("--resume").wait()
    return {
        "after_seconds": points,
        "is_equal": digest(task.out) == expected,
    }


def digest(path: Path) -> str:
    """Return a hash of all voxels of maps and instances."""
    total = hashlib.sha256()
    group = zarr.open_group(path, mode="r")
    for name in ("maps/0", "instances/0"):
        array: Any = group[name]
        axis = array.ndim - 3
        for z in range(0, array.shape[axis], 64):
            part = array[(slice(None),) * axis + (slice(z, z + 64),)]
            total.update(np.ascontiguousarray(part).tobytes())
    return total.hexdigest()


def size_of(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


if __name__ == "__main__":
    main()
