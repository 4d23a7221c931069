"""Compare a training step with the same step on data that lie ready.

Usage: python benchmarks/step_time.py [--preset NAME] [--steps N] [KEY=VALUE …]

Blocks of steps with real patches (drawn, augmented, copied to the device, with the
run's control file looked at before each) take turns with blocks that repeat one batch
which is on the device already. Prints JSON; `ratio` is the first over the second.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import median

import torch

from napari_volseg.allocator import keep_freed_memory
from napari_volseg.config import load_config
from napari_volseg.learner import Learner
from napari_volseg.planning import plan_training
from napari_volseg.probing import trusted_compute
from napari_volseg.runs import ControlReader, TrainingPair
from napari_volseg.sample_data import make_sample
from napari_volseg.sampling import Batch, PatchSource, batches, prepare_volume

BLOCK = 10


def main() -> None:
    keep_freed_memory()  # as every process of volseg does
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--steps", type=int, default=100, help="of each kind")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    args = parser.parse_args()
    config = load_config(args.preset, args.settings)
    pairs = [
        TrainingPair(make_sample(shape=(48, 256, 256), seed=s), None, "train")
        for s in (0, 1)
    ]
    plan = plan_training(config, pairs)
    plan = replace(plan, compute=trusted_compute(plan)[0])
    volumes = [
        prepare_volume(
            pair.volume,
            [h.box for h in plan.held_out if h.pair == i],
            plan.guard,
            config,
            plan.patch_size,
            plan.boundary,
            plan.distance,
        )
        for i, pair in enumerate(pairs)
    ]
    learner = Learner(plan)
    micro_batches = range(plan.micro_batches)
    stream = batches(
        PatchSource(volumes, config, plan.patch_size),
        0,
        micro_batches,
        config.system.training.num_workers,
        device=plan.compute.device,
    )
    ready = [move(batch, plan.compute.device) for batch in next(stream)]
    with tempfile.TemporaryDirectory() as folder:
        read_control = ControlReader(Path(folder))
        for _ in islice(stream, 3):
            learner.learn(ready)
        real, bare = [], []
        for _ in range(max(1, args.steps // BLOCK)):
            started = time.perf_counter()
            for _ in range(BLOCK):
                read_control()
                learner.learn(next(stream))
            real.append((time.perf_counter() - started) / BLOCK)
            started = time.perf_counter()
            for _ in range(BLOCK):
                learner.learn(ready)
            bare.append((time.perf_counter() - started) / BLOCK)
    stream.close()
    print(
        json.dumps(
            {
                "preset": args.preset,
                "compute": str(plan.compute),
                "threads": torch.get_num_threads(),
                "patch_size": plan.patch_size,
                "batch_size": config.system.training.patches_per_batch,
                "step_ms": round(1000 * median(real), 1),
                "ready_data_step_ms": round(1000 * median(bare), 1),
                "ratio": round(median(real) / median(bare), 3),
                "share_not_network": round(1 - median(bare) / median(real), 3),
            },
            indent=2,
        )
    )


def move(batch: Batch, device: str) -> Batch:
    return Batch(
        batch.image_BCZYX.to(device),
        batch.targets_BCZYX.to(device),
        batch.valid_BCZYX.to(device),
    )


if __name__ == "__main__":
    main()
