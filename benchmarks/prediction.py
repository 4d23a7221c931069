"""Compare a prediction with the bare forward passes of its windows, and with MONAI.

Usage: python benchmarks/prediction.py [--shape Z Y X] [--window Z Y X] [--filters N …]
       [--rounds N] [--device cpu|cuda]

Three things take turns on one generated volume, stored as Zarr: the forward passes of
as many windows as the volume has, on windows that lie ready; the prediction of this
package from the Zarr to maps on the disk; and MONAI's `sliding_window_inference`, the
volume and the maps in memory. Prints JSON: `ratio_to_forward` is the prediction's time
over that of the bare passes. Memory is measured in a process of its own for each, as
the rise of its peak over what it took before. The lengths of the volume should be a
window and some whole steps of three quarters of it, so that both lay the same windows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import zarr

from napari_volseg.allocator import keep_freed_memory
from napari_volseg.checkpoint import load_model, model_metadata, save_model
from napari_volseg.config import InferenceConfig, build_config
from napari_volseg.geometry import blend_profile
from napari_volseg.io import create_zarr, open_volume
from napari_volseg.mapjob import MapJob, prepare_maps
from napari_volseg.mapping import predict_maps
from napari_volseg.networks import build_network, plan_pyramid
from napari_volseg.volume import normalise

NM = (30.0, 8.0, 8.0)


def main() -> None:
    keep_freed_memory()  # as every process of volseg does
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", nargs=3, type=int, default=(80, 416, 416))
    parser.add_argument("--window", nargs=3, type=int, default=(32, 128, 128))
    parser.add_argument("--filters", nargs="+", type=int, default=(16, 32, 64))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", choices=("ours", "monai"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_input(Path(folder), args)
        if args.only:
            print(measure_memory(Path(folder), args))
        else:
            print(json.dumps(measure_time(Path(folder), args), indent=2))


def make_input(folder: Path, args: argparse.Namespace) -> None:
    """Write a volume and a model with random weights."""
    image = create_zarr(
        folder / "em.zarr", tuple(args.shape), np.uint8, NM, name="em", block=(64,) * 3
    )
    rng = np.random.default_rng(0)
    for z in range(0, args.shape[0], 64):
        n = min(64, args.shape[0] - z)
        image[z : z + n] = rng.integers(0, 255, (n, *args.shape[1:]), np.uint8)
    window = tuple(args.window)
    config = build_config(
        {"model": {"filters": list(args.filters)}, "data": {"patch_size": window}}
    )
    pyramid = plan_pyramid(config.model, NM, window)
    torch.manual_seed(0)
    network = build_network(config.model, 1, pyramid)
    metadata = model_metadata(config, pyramid, 1, NM, window, 1, {})
    save_model(folder / "model.safetensors", network.state_dict(), metadata)


def open_job(folder: Path, name: str, args: argparse.Namespace) -> MapJob:
    """Prepare a prediction of all into a new folder."""
    (folder / name).mkdir()
    return prepare_maps(
        folder / "model.safetensors",
        load_model(folder / "model.safetensors"),
        open_volume(str(folder / "em.zarr")),
        folder / name,
        inference=InferenceConfig(),
        device=args.device,
    )


def run_ours(job: MapJob) -> int:
    """Predict; return the windows that were computed."""
    tiles = job.tiles(2 * 10**9)
    return sum(list(predict_maps(job, tile))[-1].n_windows for tile in tiles)


def run_monai(job: MapJob) -> Any:
    """Predict with MONAI; return the maps, from 0 to 1."""
    from monai.inferers import sliding_window_inference

    compute, network = job.forward.compute, job.forward.network
    image = torch.from_numpy(normalise(job.image.read(), job.range_C2))[None]

    @torch.no_grad()
    def forward(x: torch.Tensor) -> torch.Tensor:
        x = x.contiguous(memory_format=compute.memory_format)
        with compute.autocast():
            logits = network(x)[0]
        return torch.sigmoid(logits.float())

    z, y, x = (torch.from_numpy(blend_profile(n)) for n in job.window)
    weight = (z[:, None, None] * y[:, None] * x).to(compute.device)
    return sliding_window_inference(
        image.to(compute.device),
        job.window,
        1,
        forward,
        overlap=0.25,
        roi_weight_map=weight,
    )


def run_forward(job: MapJob, n: int) -> None:
    """Pass windows that lie ready through the network."""
    window = np.random.default_rng(0).random((1, 1, *job.window), np.float32)
    for _ in range(n):
        job.forward(window)
    if job.forward.compute.device == "cuda":
        torch.cuda.synchronize()


def measure_time(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    times: dict[str, list[float]] = {"forward": [], "ours": [], "monai": []}
    job = open_job(folder, "warm", args)
    run_forward(job, 2)
    n_windows = job.plan().n_windows
    theirs = None
    for i in range(args.rounds):
        job = open_job(folder, f"round-{i}", args)
        started = time.perf_counter()
        run_forward(job, n_windows)
        times["forward"].append(time.perf_counter() - started)
        started = time.perf_counter()
        n_windows = run_ours(job)
        times["ours"].append(time.perf_counter() - started)
        started = time.perf_counter()
        theirs = run_monai(job)
        times["monai"].append(time.perf_counter() - started)
    ours = zarr.open_group(job.folder / "maps.zarr", mode="r")["0"][...] / 255
    difference = np.abs(ours - theirs[0].cpu().numpy())
    size = int(np.prod(args.shape))
    return {
        "compute": str(job.forward.compute),
        "threads": torch.get_num_threads(),
        "shape": list(args.shape),
        "window": list(job.window),
        "n_windows": n_windows,
        "visits_per_voxel": round(n_windows * np.prod(job.window) / size, 3),
        "seconds": {k: [round(t, 2) for t in v] for k, v in times.items()},
        "ratio_to_forward": ratio(times["ours"], times["forward"]),
        "monai_ratio_to_forward": ratio(times["monai"], times["forward"]),
        "difference_to_monai": {
            "mean": round(float(difference.mean()), 5),
            "max": round(float(difference.max()), 5),
        },
        "peak_bytes_per_voxel": {
            name: round(peak_of(name, args) / size, 2) for name in ("ours", "monai")
        },
    }


def ratio(a: list[float], b: list[float]) -> float:
    """Return the median of the ratios of each round."""
    return round(median(x / y for x, y in zip(a, b, strict=True)), 3)


def peak_of(name: str, args: argparse.Namespace) -> int:
    command = [sys.executable, __file__, "--only", name, "--device", args.device]
    for key in ("shape", "window", "filters"):
        command += [f"--{key}", *map(str, getattr(args, key))]
    return int(subprocess.run(command, check=True, capture_output=True).stdout)


def measure_memory(folder: Path, args: argparse.Namespace) -> int:
    job = open_job(folder, "job", args)
    run_forward(job, 2)
    before = reset_peak()
    run_ours(job) if args.only == "ours" else run_monai(job)
    return peak() - before


def reset_peak() -> int:
    """Forget the peak of this process; return the memory that it takes now."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """Return the most memory this process took since the reset (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) * 1024 for x in lines if x.startswith("VmHWM"))


if __name__ == "__main__":
    main()
