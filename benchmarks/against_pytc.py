"""Train PyTorch Connectomics and napari-volseg on the same voxels, and score both.

Usage: python benchmarks/against_pytc.py DATA_FOLDER --pytc FOLDER --pytc-python PYTHON
       [--only NAME] [--patches N]

FOLDER is a checkout of PyTorch Connectomics, PYTHON an interpreter with its
dependencies. Both learn from the same number of patches of the same size, batch by
batch of two, with a residual symmetric U-Net of the same filters, on a processor in
32-bit numbers. Theirs uses its profiles `bcd` (all channels as it defines them),
`aug_standard` and `warmup_cosine_lr`, and `binary_channels: [0]` in decoding, without
which its decoder sees one slice of the mask only. Ours uses the preset of the kind of
data. Scores are those of `volseg evaluate`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml
from real_data import TASKS, Task, call

from napari_volseg.config import Config, load_config
from napari_volseg.io import open_volume, read_labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--pytc", type=Path, required=True)
    parser.add_argument("--pytc-python", type=Path, required=True)
    parser.add_argument("--only", choices=TASKS)
    parser.add_argument("--patches", type=int, default=2000)
    parser.add_argument("--output", type=Path, default=Path("demo-output/against-pytc"))
    args = parser.parse_args()
    results = {}
    for name, task in TASKS.items():
        if args.only in (None, name):
            place = (args.output / name).absolute()
            place.mkdir(parents=True, exist_ok=True)
            config = load_config(task.preset)
            results[name] = {
                "ours": run_ours(place, task, args.data, args.patches),
                "theirs": run_theirs(place, task, args, config),
            }
            print(json.dumps({name: results[name]}, indent=2), flush=True)
    print(json.dumps(results, indent=2))


def run_ours(place: Path, task: Task, data: Path, patches: int) -> dict[str, Any]:
    epochs = 20
    words = ["train", task.preset, "--runs", str(place / "runs"), "--name", "ours"]
    words += ["optimization.max_minutes=600", f"optimization.max_epochs={epochs}"]
    words += [f"data.iter_num_per_epoch={patches // epochs}"]
    words += ["system.training.batch_size=2", "optimization.precision=32"]
    words += ["monitor.early_stopping.enabled=false"]
    for file, part in task.train:
        words += ["--image", f"{data / file}:raw{part}"]
        words += ["--label", f"{data / file}:labels{part}"]
    seconds = call(*words)[1]
    file, part = task.test
    run = max((place / "runs").iterdir(), key=lambda p: p.stat().st_mtime)
    out = place / "ours.h5"
    call("predict", str(run), f"{data / file}:raw{part}", "-o", str(out))
    return score(out, "instances", task, data) | {"train_seconds": round(seconds)}


def run_theirs(
    place: Path, task: Task, args: argparse.Namespace, config: Config
) -> dict[str, Any]:
    export_volumes(place, task, args.data)
    path = place / "pytc.yaml"
    path.write_text(yaml.safe_dump(their_settings(place, args, config)))
    started = time.perf_counter()
    pytc(args, path)
    seconds = time.perf_counter() - started
    checkpoint = max((place / "pytc").rglob("last*.ckpt"), key=os.path.getmtime)
    pytc(args, path, "--mode", "test", "--checkpoint", str(checkpoint))
    found = max(
        (
            p
            for p in (place / "pytc").rglob("*.h5")
            if "decod" in p.name or "seg" in p.name
        ),
        key=os.path.getmtime,
    )
    return score(found, "main", task, args.data) | {"train_seconds": round(seconds)}


def export_volumes(place: Path, task: Task, data: Path) -> None:
    """Write the parts that both learn from, one file an array, as theirs reads them."""
    parts = [(f"train{i}", *source) for i, source in enumerate(task.train)]
    for name, file, part in [*parts, ("test", *task.test)]:
        raw = open_volume(f"{data / file}:raw{part}").read()[0]
        labels = read_labels(f"{data / file}:labels{part}")
        for kind, array in (("im", raw), ("seg", labels.astype(np.uint16))):
            with h5py.File(place / f"{name}_{kind}.h5", "w") as out:
                out.create_dataset("main", data=array, compression="gzip")


def their_settings(
    place: Path, args: argparse.Namespace, config: Config
) -> dict[str, Any]:
    """Return the configuration of theirs that is as near to ours as it goes."""
    patch = list(config.data.patch_size)
    filters = list(config.model.filters)
    epochs = 20
    steps = args.patches // 2 // epochs
    train = sorted(str(p) for p in place.glob("train*_im.h5"))
    return {
        "experiment_name": "pytc",
        "save_path": str(place / "pytc"),
        "_base_": [str(args.pytc.absolute() / "connectomics/config/all_profiles.yaml")],
        "default": {
            "pipeline_profile": "bcd",
            "system": {"num_gpus": 0, "num_workers": 0, "seed": 0},
            "model": {
                "arch": {"profile": "rsunet"},
                "rsunet": {
                    "width": filters,
                    "norm": config.model.rsunet_norm,
                    "down_factors": [[1, 2, 2]] * (len(filters) - 1),
                },
                "input_size": patch,
                "output_size": patch,
            },
            "data": {
                "dataloader": {
                    "profile": "cached",
                    "batch_size": 2,
                    "patch_size": patch,
                    "persistent_workers": False,
                },
                "image_transform": {"normalize": "0-1"},
                "augmentation": {"profile": "aug_standard"},
            },
            "inference": {
                "window": {"window_size": patch, "overlap": 0.5},
                "save_results": True,
            },
            "decoding": {
                "steps": [
                    {
                        "name": "decode_instance_binary_contour_distance",
                        "kwargs": {"binary_channels": [0], "min_instance_size": 100},
                    }
                ]
            },
            "evaluation": {"enabled": False},
        },
        "train": {
            "data": {
                "train": {
                    "image": train,
                    "label": [name.replace("_im", "_seg") for name in train],
                }
            },
            "optimization": {
                "profile": "warmup_cosine_lr",
                "n_steps_per_epoch": steps,
                "max_epochs": epochs,
                "precision": "32",
            },
        },
        "test": {
            "data": {
                "test": {
                    "image": str(place / "test_im.h5"),
                    "label": str(place / "test_seg.h5"),
                }
            }
        },
    }


def pytc(args: argparse.Namespace, path: Path, *more: str) -> None:
    subprocess.run(
        [args.pytc_python, "scripts/main.py", "--config", str(path), *more],
        cwd=args.pytc,
        env=os.environ | {"PYTHONPATH": str(args.pytc.absolute())},
        stdout=sys.stderr,
        check=True,
    )


def score(path: Path, dataset: str, task: Task, data: Path) -> dict[str, Any]:
    file, part = task.test
    answer, _ = call(
        *("evaluate", f"{path}:{dataset}", f"{data / file}:labels{part}"),
        *("--min-size", str(task.min_size), "--json"),
    )
    wanted = ("f1_50", "ap", "adapted_rand_error", "n_true", "n_pred")
    return {key: json.loads(answer)[key] for key in wanted}


if __name__ == "__main__":
    main()
