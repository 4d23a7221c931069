"""Compare the forms of a training step on a GPU.

Usage: python benchmarks/gpu_steps.py [--preset NAME] [--steps N] [KEY=VALUE …]

Every form does steps of the preset on one random batch that lies on the GPU: number
formats, layouts, and whether cuDNN searches for its fastest method. Prints a table in
Markdown. Memory is the peak that PyTorch reserved.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from statistics import median

import torch

from napari_volseg.allocator import keep_freed_memory
from napari_volseg.config import load_config
from napari_volseg.devices import Compute
from napari_volseg.learner import Learner
from napari_volseg.networks import N_MAPS
from napari_volseg.planning import TrainPlan, plan_training
from napari_volseg.runs import TrainingPair
from napari_volseg.sample_data import make_sample
from napari_volseg.sampling import Batch


def main() -> None:
    keep_freed_memory()  # as every process of volseg does
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="hydra-lv")
    parser.add_argument("--steps", type=int, default=10, help="of each form")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    args = parser.parse_args()
    config = load_config(args.preset, ["system.device=cuda", *args.settings])
    pair = TrainingPair(make_sample(shape=(48, 256, 256)), None, "train")
    plan = plan_training(config, [pair])
    size = config.system.training.patches_per_batch
    targets = torch.rand((size, N_MAPS, *plan.patch_size), device="cuda")
    image = torch.rand((size, plan.in_channels, *plan.patch_size), device="cuda")
    batch = Batch(image, targets, targets > 0.1)
    print(torch.cuda.get_device_name(), f"PyTorch {torch.__version__}", "\n")
    print("| format | layout | cuDNN searches | ms | Mvox/s | GB |")
    print("|---|---|---|---|---|---|")
    for precision in ("32", "16", "bf16"):
        for channels_last in (False, True):
            for searches in (False, True):
                compute = Compute("cuda", precision, channels_last)
                _print(plan, compute, searches, batch, args.steps)


def _print(
    plan: TrainPlan,
    compute: Compute,
    searches: bool,
    batch: Batch,
    n_steps: int,
) -> None:
    torch.backends.cudnn.benchmark = searches
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    learner = Learner(replace(plan, compute=compute, micro_batches=1))
    seconds = []
    for _ in range(3 + n_steps):
        started = time.perf_counter()
        learner.learn([batch])
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    step = median(seconds[3:])
    size = torch.cuda.max_memory_reserved() / 1e9
    layout = "channels last" if compute.channels_last else "contiguous"
    said = "yes" if searches else "no"
    print(
        f"| {compute.precision} | {layout} | {said} | {1000 * step:.0f} "
        f"| {batch.image_BCZYX.numel() / step / 1e6:.1f} | {size:.1f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
