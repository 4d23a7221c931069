"""Measure how soon instances follow a threshold: the visible slice and a box around it.

Usage: python benchmarks/retuning.py [--edge 256] [--repeats 9] [--maps FILE.h5:maps]

Generated objects become maps, blurred and noisy as a network's, unless a file is given.
One process segments them as it does for napari. For each repeat another seed distance
is asked for, as by a slider, first of the slices at the view and then of the box;
seeds are not handed over, as long as they are not shown.
Prints JSON: medians in seconds, from the request to the answer in hand; the same for
thresholds that leave the seeds as they are; a bare call of `segment` on the box, in a
process of its own, and the ratio of the two; and whether the slices met 0.1 s and the
box 0.5 s.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from napari_volseg.config import InstancesConfig
from napari_volseg.geometry import Box
from napari_volseg.retuning import Failed, Retuner

SLICES = 9
BARE = """
import json, sys, time
import numpy as np
from napari_volseg.config import InstancesConfig
from napari_volseg.instances import segment
maps = np.load(sys.argv[1])
segment(maps[:, :2, :8, :8].copy(), InstancesConfig())
times = []
for i in range(int(sys.argv[2])):
    began = time.perf_counter()
    segment(maps, InstancesConfig(seed_distance=0.3 + 0.02 * i))
    times.append(time.perf_counter() - began)
print(json.dumps(times))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edge", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--maps", help="a source with uint8 maps, C Z Y X")
    args = parser.parse_args()
    maps_CZYX = stored_maps(args.maps) if args.maps else generated_maps(args.edge)
    print(json.dumps(measure(maps_CZYX, args.repeats), indent=2))


def measure(maps_CZYX: Any, repeats: int) -> dict[str, Any]:
    depth, height, width = maps_CZYX.shape[1:]
    start = max(0, depth // 2 - SLICES // 2)
    slices = Box((start, 0, 0), (min(depth, start + SLICES), height, width))
    retuner = Retuner()
    try:
        retuner.load(maps_CZYX)
        follow(retuner, InstancesConfig(), slices)
        seeds = [InstancesConfig(seed_distance=0.3 + 0.02 * i) for i in range(repeats)]
        moved = [follow(retuner, config, slices) for config in seeds]
        masks = [InstancesConfig(mask=0.4 + 0.02 * i) for i in range(repeats)]
        kept = [follow(retuner, config, slices) for config in masks]
    finally:
        retuner.close()
    slice_s, box_s = (statistics.median(times) for times in zip(*moved, strict=True))
    bare_s = statistics.median(bare(maps_CZYX, repeats))
    return {
        "shape": maps_CZYX.shape[1:],
        "processors": os.cpu_count(),
        "load": os.getloadavg()[0],
        "slice_s": round(slice_s, 3),
        "box_s": round(box_s, 3),
        "slice_same_seeds_s": round(statistics.median(t for t, _ in kept), 3),
        "box_same_seeds_s": round(statistics.median(t for _, t in kept), 3),
        "bare_segment_s": round(bare_s, 3),
        "box_to_bare_segment": round(box_s / bare_s, 2),
        "slice_to_box": round(slice_s / box_s, 3),
        "slice_within_0.1_s": slice_s <= 0.1,
        "box_within_0.5_s": box_s <= 0.5,
    }


def follow(
    retuner: Retuner, config: InstancesConfig, slices: Box
) -> tuple[float, float]:
    """Ask for slices and box; return the seconds until each was in hand."""
    began = time.perf_counter()
    tickets = {
        "slices": retuner.request(config, slices, "slices"),
        "box": retuner.request(config, seeds=False),
    }
    seconds: dict[str, float] = {}
    while len(seconds) < 2:
        for lane, ticket in tickets.items():
            answer = retuner.poll(lane)  # type: ignore[arg-type]
            if isinstance(answer, Failed):
                raise SystemExit(answer.message)
            if answer is not None and answer.ticket == ticket:
                seconds[lane] = time.perf_counter() - began
        time.sleep(0.002)
    return seconds["slices"], seconds["box"]


def bare(maps_CZYX: Any, repeats: int) -> list[float]:
    """Return the seconds of calls of `segment` in a process of their own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "maps.npy"
        np.save(path, maps_CZYX)
        command = [sys.executable, "-c", BARE, str(path), str(repeats)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    times: list[float] = json.loads(done.stdout)
    return times


def generated_maps(edge: int) -> Any:
    from scipy.ndimage import gaussian_filter

    from napari_volseg.sample_data import make_sample
    from napari_volseg.targets import make_targets

    tile = min(edge, 128)
    labels_ZYX = make_sample("cells", (tile, tile, tile), seed=0).labels_ZYX
    rng = np.random.default_rng(0)
    maps = [
        gaussian_filter(channel.astype(np.float32), 1) + rng.normal(0, 8, channel.shape)
        for channel in make_targets(labels_ZYX, (8.0, 8.0, 8.0)).values_CZYX
    ]
    tiled = np.tile(np.clip(np.stack(maps), 0, 255).astype(np.uint8), (1, 2, 2, 2))
    return np.ascontiguousarray(tiled[:, :edge, :edge, :edge])


def stored_maps(source: str) -> Any:
    from napari_volseg.io import open_volume

    return np.ascontiguousarray(open_volume(source).read())


if __name__ == "__main__":
    main()
