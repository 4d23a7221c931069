"""Measure how fast maps become instances, beside skimage and mahotas.

Usage: python benchmarks/instances.py [--sizes MVOX …] [--threads N] [--compared MVOX]

Generated cells are turned into noisy maps and repeated to volumes of some million
voxels. Each is segmented from a Zarr to a Zarr block by block (*blocks*), the same with
finished blocks kept to go on from (*kept*), and, up to 64 Mvox, with all of it in
memory (*stored*), and from an array in memory (*memory*); the smallest also with the
seeds of skimage's `peak_local_max` and its watershed, and with mahotas' where that is
installed. Prints JSON: million voxels a second, seconds of all processors, and bytes a
voxel by which the peak of memory rose (each in its own process).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from scipy import ndimage

from napari_volseg.bench.volumes import noisy_maps
from napari_volseg.config import InstancesConfig
from napari_volseg.instances import segment, segment_stored
from napari_volseg.io import create_zarr
from napari_volseg.sample_data import make_sample
from napari_volseg.targets import make_targets

TILE = (64, 256, 256)
NM = (30.0, 8.0, 8.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", type=int, default=[8, 32])
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--compared", type=int, default=4)
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        name, size = args.only
        print(json.dumps(measure(name, int(size), args.threads)))
        return
    found: dict[str, dict[str, Any]] = {}
    for size in args.sizes:
        for name in ("blocks", "kept"):
            found[f"{name}, {size} Mvox"] = run(name, size, args.threads)
        if size <= 64:
            for name in ("stored", "memory"):
                found[f"{name}, {size} Mvox"] = run(name, size, args.threads)
    for name in ("memory", "skimage", "mahotas"):
        found[f"{name}, {args.compared} Mvox"] = run(name, args.compared, args.threads)
    print(json.dumps(found, indent=2))


def run(name: str, size: int, threads: int | None) -> dict[str, Any]:
    command = [sys.executable, __file__, "--only", name, str(size)]
    if threads is not None:
        command += ["--threads", str(threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def make_tile() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return maps as a network makes them: too low, blurred and noisy."""
    labels = make_sample("cells", TILE).labels_ZYX
    return noisy_maps(make_targets(labels, NM).values_CZYX)


def make_maps(size: int, folder: Path) -> Any:
    """Write maps of `size` million voxels, a tile repeated."""
    n = max(1, round(size * 1e6 / np.prod(TILE)))
    n_y = max(1, round(n**0.5))
    shape = (3, TILE[0], TILE[1] * n_y, TILE[2] * max(1, round(n / n_y)))
    maps = create_zarr(
        folder / "maps.zarr", shape, np.uint8, NM, name="maps", block=TILE
    )
    tile = make_tile()
    for y in range(0, shape[2], TILE[1]):
        for x in range(0, shape[3], TILE[2]):
            maps[:, :, y : y + TILE[1], x : x + TILE[2]] = tile
    return maps


def measure(name: str, size: int, threads: int | None) -> dict[str, Any]:
    if name == "mahotas":
        try:
            import mahotas  # noqa: F401
        except ImportError:
            return {"skipped": "mahotas is not installed"}
    config = InstancesConfig()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        maps = make_maps(size, folder)
        tile = np.tile(make_tile()[:, :, :96], (1, 1, 1, 2))
        segment(tile, config)  # compiles, and so does the next
        for memory in (0, 2**30):
            warm = folder / f"warm-{memory}.zarr"
            segment_stored(zarr.array(tile), warm, config, NM, memory=memory)
        from_disk = name in ("blocks", "kept", "stored")
        whole = None if from_disk else np.asarray(maps[...])
        n_voxels = int(np.prod(maps.shape[1:]))
        before = reset_peak()
        started, computed = time.perf_counter(), time.process_time()
        if from_disk:
            n = segment_stored(
                maps,
                folder / "labels.zarr",
                config,
                NM,
                # Too little for all of it, and for some blocks side by side.
                memory=2**34 if name == "stored" else 16 * n_voxels - 1,
                source=folder / "maps.zarr" if name == "kept" else None,
            ).n_instances
        elif name == "memory":
            n = int(segment(whole, config, threads=threads).max())
        else:
            n = int(classical(whole, name).max())
        seconds = time.perf_counter() - started
        computed = time.process_time() - computed
        return {
            "mvox": round(n_voxels / 1e6, 1),
            "mvox_per_second": round(n_voxels / seconds / 1e6, 2),
            "seconds_of_processors": round(computed, 2),
            "peak_bytes_per_voxel": round((peak() - before) / n_voxels, 1),
            "n_instances": n,
        }


def classical(maps: Any, library: str) -> Any:
    """Segment as is usual: peaks of the distance, watershed within the mask."""
    from skimage.feature import peak_local_max
    from skimage.segmentation import watershed

    distance = ndimage.gaussian_filter(maps[2].astype(np.float32), 1)
    mask = maps[0] > 127
    seeds = np.zeros(mask.shape, np.int32)
    peaks = peak_local_max(distance, min_distance=3, threshold_abs=76, labels=mask)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    if library == "skimage":
        return watershed(-distance, seeds, mask=mask)
    import mahotas

    return mahotas.cwatershed((255 - distance).astype(np.float64), seeds) * mask


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
