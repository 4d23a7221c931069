"""``volseg fit``: find the thresholds that match stored maps to labels."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, get_args

import numpy as np

from napari_volseg.cli.options import Commands, add_json_option, print_json, say
from napari_volseg.config import apply_overrides, build_config
from napari_volseg.errors import DataError
from napari_volseg.io import open_volume, read_labels, read_mask, write_json
from napari_volseg.volume import AnnotationRule, read_annotation

__all__ = ["add_commands"]

SECTIONS = ("instances",)


def add_commands(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "fit",
        help="find the thresholds that match maps to labels",
        description="Search the thresholds under which the instances of stored maps "
        "match labels best, where those are annotated. Nothing is written: give what "
        "is found to 'volseg segment'.",
        usage="volseg fit MAPS_SRC LABEL_SRC [instances.key=value ...] [--json]",
        allow_abbrev=False,
    )
    parser.add_argument("maps", metavar="MAPS_SRC", help="for instance out.h5:maps")
    parser.add_argument("labels", metavar="LABEL_SRC", help="the true instances")
    parser.add_argument("--mask", metavar="SRC", help="where the labels count")
    parser.add_argument(
        "--annotated",
        choices=get_args(AnnotationRule),
        default="everywhere",
        help="what counts as annotated",
    )
    parser.add_argument(
        "--curves", action="store_true", help="print the score at each threshold too"
    )
    parser.add_argument("--progress", type=Path, help=argparse.SUPPRESS)
    add_json_option(parser)
    parser.sections = SECTIONS
    parser.set_defaults(run=run, takes_settings=True)


def run(args: argparse.Namespace) -> int:
    """Search, and print what was found."""
    maps = open_volume(args.maps)
    if maps.n_channels != 3 or np.dtype(maps.data.dtype) != np.uint8:
        raise DataError(
            f"{args.maps}: maps are uint8 with 3 channels (mask, boundary, distance); "
            f"this is {maps.data.dtype} with {maps.n_channels}"
        )
    mask = read_mask(args.mask) if args.mask else None
    truth, known = read_annotation(
        read_labels(args.labels), args.annotated, mask_ZYX=mask, name=args.labels
    )
    if truth.shape != maps.shape_ZYX:
        raise DataError(
            f"{args.labels} has the shape {truth.shape} but the maps have "
            f"{maps.shape_ZYX}: they must cover the same voxels"
        )
    merged = build_config(apply_overrides({}, args.settings), "the command line")
    from napari_volseg.instances import fit_thresholds

    def report(done: int, total: int) -> None:
        if args.progress is not None:
            write_json(args.progress, {"done": done, "total": total})

    found = fit_thresholds(
        maps.read(),
        truth,
        known,
        merged.instances,
        with_curves=args.curves,
        report=report,
    )
    if not found.scores:
        raise DataError(f"{args.labels} has no annotated object: paint some first")
    _print(args, found)
    return 0


def _print(args: argparse.Namespace, found: Any) -> None:
    thresholds = found.config.model_dump(mode="json")
    if args.json:
        print_json(
            {
                "instances": thresholds,
                "score": found.score,
                "scores": dict(found.scores),
                "before": dict(found.before),
                "curves": dict(found.curves),
            }
        )
        return
    for name, value in thresholds.items():
        say(f"instances.{name}={json.dumps(value)}")
    for name in ("f1_50", "ap", "adapted_rand_error"):
        say(f"{name:<20} {found.before[name]:.4f} -> {found.scores[name]:.4f}")
    for name, points in found.curves.items():
        say(f"{name}: " + ", ".join(f"{v:g} {score:.3f}" for v, score in points))
