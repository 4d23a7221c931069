"""``volseg evaluate``: compare instances with the truth."""

from __future__ import annotations

import argparse

from napari_volseg.cli.options import Commands, add_json_option, print_json, say
from napari_volseg.errors import DataError
from napari_volseg.io import read_labels, read_mask
from napari_volseg.volume import read_annotation

__all__ = ["add_commands"]


def add_commands(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "evaluate",
        help="compare instances with the truth",
        description="Print how well predicted instances agree with the truth, where it "
        "is annotated.",
        allow_abbrev=False,
    )
    parser.add_argument("prediction", metavar="PRED_SRC", help="predicted instances")
    parser.add_argument("truth", metavar="TRUTH_SRC", help="true instances")
    parser.add_argument("--mask", metavar="SRC", help="where the truth is annotated")
    parser.add_argument(
        "--min-size",
        type=int,
        default=0,
        metavar="N",
        help="leave out instances of fewer voxels, predicted and true",
    )
    add_json_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the metrics."""
    if args.min_size < 0:
        raise DataError("--min-size must be 0 or above")
    prediction, _ = read_annotation(read_labels(args.prediction), name=args.prediction)
    mask = read_mask(args.mask) if args.mask else None
    truth, annotated = read_annotation(
        read_labels(args.truth), mask_ZYX=mask, name=args.truth
    )
    if prediction.shape != truth.shape:
        raise DataError(
            f"{args.prediction} has the shape {prediction.shape} but {args.truth} has "
            f"{truth.shape}: they must cover the same voxels; pick the part with "
            "slices, for instance truth.h5:labels[0:100]"
        )
    from napari_volseg.metrics import evaluate

    metrics = evaluate(prediction, truth, annotated, min_size=args.min_size)
    if args.json:
        print_json(metrics)
        return 0
    for name, value in metrics.items():
        text = f"{value:.0f}" if name.startswith("n_") else f"{value:.4f}"
        say(f"{name:<20} {text:>9}")
    return 0
