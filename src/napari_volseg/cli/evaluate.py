"""``volseg evaluate``: compare instances with the truth."""

from __future__ import annotations

import argparse
import sys

from napari_volseg.cli.options import Commands, add_json_option, print_json, say
from napari_volseg.cli.progress import counting
from napari_volseg.errors import DataError
from napari_volseg.geometry import reading_block
from napari_volseg.io import open_labels, open_mask

__all__ = ["add_commands"]

MAX_VOXELS = 2**22
"""Of a block, as far as the chunks of the files allow."""


def add_commands(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "evaluate",
        help="compare instances with the truth",
        description="Print how well predicted instances agree with the truth, where it "
        "is annotated. The volumes may be larger than memory.",
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
    prediction, truth = open_labels(args.prediction), open_labels(args.truth)
    if prediction.shape != truth.shape:
        raise DataError(
            f"{args.prediction} has the shape {prediction.shape} but {args.truth} has "
            f"{truth.shape}: they must cover the same voxels; pick the part with "
            "slices, for instance truth.h5:labels[0:100]"
        )
    mask = open_mask(args.mask) if args.mask else None
    from napari_volseg.metrics import evaluate_blocks

    arrays = [prediction, truth] + ([] if mask is None else [mask])
    with counting("blocks") as report:
        metrics = evaluate_blocks(
            prediction,
            truth,
            mask,
            args.min_size,
            block=reading_block(truth.shape, [a.chunks for a in arrays], MAX_VOXELS),
            names=(args.prediction, args.truth),
            mask_name=args.mask or "the mask",
            report=report,
        )
    for array in arrays:
        if array.missing_note:
            sys.stderr.write(f"{array.missing_note}\n")
    if metrics["n_true"] == metrics["n_pred"] == 0:
        sys.stderr.write(
            "volseg: there was no instance to compare, predicted or true, so the "
            "scores say nothing: look at --mask, --min-size and the files\n"
        )
    if args.json:
        print_json(metrics)
        return 0
    for name, value in metrics.items():
        text = f"{value:.0f}" if name.startswith("n_") else f"{value:.4f}"
        say(f"{name:<20} {text:>9}")
    return 0
