"""Time each term of the loss, and each kind of target.

Usage: python benchmarks/loss_time.py [--size Z Y X] [--repeats N]

Prints JSON: milliseconds of a term, forward and backward, on one channel of one patch
of that size, and seconds per million voxels of the targets of a synthetic volume of
space-filling cells.
"""

from __future__ import annotations

import argparse
import json
import time
from statistics import median

import torch

from napari_volseg.allocator import keep_freed_memory
from napari_volseg.config import LOSS_TERMS, ModelConfig, build_config
from napari_volseg.losses import build_loss
from napari_volseg.sample_data import make_sample
from napari_volseg.targets import make_targets


def main() -> None:
    keep_freed_memory()  # as every process of volseg does
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs=3, default=(32, 128, 128))
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    report = {
        "threads": torch.get_num_threads(),
        "term_ms": {
            term: term_time(term, args.size, args.repeats)
            for term in LOSS_TERMS
            if term != "perceptual"
        },
        "target_s_per_mvox": {
            kind: target_time(kind, args.repeats)
            for kind in ("depth", "signed", "skeleton")
        },
    }
    print(json.dumps(report, indent=2))


def term_time(term: str, size: tuple[int, ...], repeats: int) -> float:
    loss = build_loss(one_channel(term))
    target = (torch.rand((1, 3, *size)) > 0.7).float()
    known = torch.ones_like(target, dtype=torch.bool)
    times = []
    for _ in range(repeats + 1):
        logits = torch.randn((1, 3, *size), requires_grad=True)
        began = time.perf_counter()
        loss([logits], target, known).objective.backward()
        times.append((time.perf_counter() - began) * 1000 / 3)
    return round(median(times[1:]), 1)


def one_channel(term: str) -> ModelConfig:
    terms = {channel: {term: 1.0} for channel in ("mask", "boundary", "distance")}
    return build_config({"model": {"loss": terms}}).model


def target_time(kind: str, repeats: int) -> float:
    sample = make_sample("cells", (48, 256, 256))
    times = []
    for _ in range(max(1, repeats // 2)):
        began = time.perf_counter()
        make_targets(sample.labels_ZYX, sample.image.voxel_size, distance_kind=kind)
        times.append(time.perf_counter() - began)
    return round(median(times) / sample.labels_ZYX.size * 1e6, 2)


if __name__ == "__main__":
    main()
