"""Measure what checkpoints cost a training.

Usage: python benchmarks/checkpoint_cost.py [--preset NAME] [--minutes N] [KEY=VALUE …]

Trains on generated volumes and saves as a run does: after
`monitor.checkpoint.every_minutes`, or later where saving takes more than 2 % of that.
Steps and saves are timed in the same run, so `share` does not depend on how busy the
machine was. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median

from napari_volseg.config import load_config
from napari_volseg.learner import Learner
from napari_volseg.pacing import Pace
from napari_volseg.planning import plan_training
from napari_volseg.preparing import prepare_patches
from napari_volseg.runfiles import RunFiles
from napari_volseg.runs import TrainingPair
from napari_volseg.sample_data import make_sample
from napari_volseg.sampling import batches
from napari_volseg.settling import settle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--minutes", type=float, default=3.0, help="of training")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    args = parser.parse_args()
    config = load_config(args.preset, args.settings)
    pairs = [TrainingPair(make_sample(shape=(48, 256, 256)), None, "train")]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        plan = settle(plan_training(config, pairs, folder))
        learner = Learner(plan)
        stream = batches(
            prepare_patches(plan, pairs, folder),
            0,
            range(plan.micro_batches),
            plan.config.system.training.num_workers,
        )
        learner.learn(next(stream))
        checkpoint = plan.config.monitor.checkpoint
        pace = Pace(checkpoint.every_minutes * 60)
        files = RunFiles(folder, checkpoint.save_top_k, pace)
        steps, saves = [], []
        end = time.perf_counter() + args.minutes * 60
        while time.perf_counter() < end:
            started = time.perf_counter()
            learner.learn(next(stream))
            steps.append(time.perf_counter() - started)
            if pace.checkpoint_due():
                started = time.perf_counter()
                list(files.save_checkpoint(learner))
                saves.append(time.perf_counter() - started)
        stream.close()
        newest = max((folder / "checkpoints").glob("step-*"), default=None)
        size = newest.stat().st_size if newest else 0
    print(
        json.dumps(
            {
                "preset": args.preset,
                "compute": str(plan.compute),
                "every_minutes": checkpoint.every_minutes,
                "interval_seconds": round(pace.checkpoint_seconds, 1),
                "steps": len(steps),
                "step_ms": round(1000 * median(steps), 1),
                "saves": len(saves),
                "save_ms": round(1000 * median(saves), 1) if saves else None,
                "checkpoint_mb": round(size / 1e6, 1),
                "share": round(sum(saves) / (sum(steps) + sum(saves)), 5),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
