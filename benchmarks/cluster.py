"""Compare blocks on workers of dask.distributed with the same blocks in one process.

Usage: python benchmarks/cluster.py [--workers N …] [--rounds N] [--shape Z Y X]
       [--filters N …]

A generated volume is predicted by one process with all processors, and by 2, 4 and 8
workers among which the same processors are divided. The workers have started and
imported PyTorch before. Prints JSON: seconds of each, the median over the rounds of
the ratio to one process (1.1 is an overhead of 10 %), and the largest difference
between the maps, of 255.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import zarr

from napari_volseg.allocator import keep_freed_memory
from napari_volseg.checkpoint import load_model, model_metadata, save_model
from napari_volseg.config import InferenceConfig, build_config
from napari_volseg.io import create_zarr, open_volume
from napari_volseg.mapjob import MapJob, prepare_maps
from napari_volseg.mapping import predict_blocks
from napari_volseg.networks import build_network, plan_pyramid
from napari_volseg.runs import create_prediction
from napari_volseg.spreading import _local_cluster, spread_blocks

NM = (30.0, 8.0, 8.0)
WINDOW = (32, 128, 128)


def main() -> None:
    keep_freed_memory()  # as every process of volseg does
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", nargs="+", type=int, default=[2, 4, 8])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--shape", nargs=3, type=int, default=(256, 512, 1024))
    parser.add_argument("--filters", nargs="+", type=int, default=(8, 16, 32))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_input(folder, tuple(args.shape), list(args.filters))
        found = {str(n): measure(folder, n, args.rounds) for n in args.workers}
    answer = {"processors": torch.get_num_threads(), "shape": list(args.shape)}
    print(json.dumps(answer | {"workers": found}, indent=2))


def make_input(folder: Path, shape: Any, filters: list[int]) -> None:
    """Write a volume and a model with random weights."""
    image = create_zarr(
        folder / "em.zarr", shape, np.uint8, NM, name="em", block=(64,) * 3
    )
    rng = np.random.default_rng(0)
    for z in range(0, shape[0], 64):
        n = min(64, shape[0] - z)
        image[z : z + n] = rng.integers(0, 255, (n, *shape[1:]), np.uint8)
    config = build_config(
        {"model": {"filters": filters}, "data": {"patch_size": WINDOW}}
    )
    pyramid = plan_pyramid(config.model, NM, WINDOW)
    torch.manual_seed(0)
    network = build_network(config.model, 1, pyramid)
    metadata = model_metadata(config, pyramid, 1, NM, WINDOW, 1, {})
    save_model(folder / "model.safetensors", network.state_dict(), metadata)


def open_job(folder: Path) -> MapJob:
    """Prepare a prediction of all into a new folder."""
    model, image = folder / "model.safetensors", open_volume(str(folder / "em.zarr"))
    source, inference = str(folder / "em.zarr"), InferenceConfig()
    job = create_prediction(model, image, source, folder / "jobs", inference=inference)
    return prepare_maps(
        model, load_model(model), image, job, inference=inference, device="cpu"
    )


def measure(folder: Path, n_workers: int, rounds: int) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {"one": [], "workers": []}
    with _local_cluster(n_workers) as cluster:
        address = cluster.scheduler_address
        difference = 0
        for i in range(rounds + 1):
            alone, spread = open_job(folder), open_job(folder)
            one = timed(lambda job=alone: in_one(job))
            many = timed(lambda job=spread: on_workers(job, address))
            difference = max(difference, compare(alone, spread))
            if i:  # the first round starts what is started once
                seconds["one"].append(one)
                seconds["workers"].append(many)
    ratios = [b / a for a, b in zip(seconds["one"], seconds["workers"], strict=True)]
    return {
        "seconds": {k: [round(t, 2) for t in v] for k, v in seconds.items()},
        "ratio_to_one_process": round(median(ratios), 3),
        "largest_difference": difference,
    }


def in_one(job: MapJob) -> None:
    for tile in job.tiles(2 * 10**9):
        predict_blocks(job.folder, tile, "cpu")


def on_workers(job: MapJob, address: str) -> None:
    tiles = job.tiles(2 * 10**9)
    for _ in spread_blocks(job, tiles, address, "cpu"):
        pass


def compare(one: MapJob, other: MapJob) -> int:
    """Return the largest difference between the maps of two predictions."""
    a, b = (
        zarr.open_group(job.folder / "maps.zarr", mode="r")["0"][...].astype(np.int16)
        for job in (one, other)
    )
    return int(np.abs(a - b).max())


def timed(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
