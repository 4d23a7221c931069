"""``volseg labels``: give new labels to a run, also while it trains."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_volseg.cli.models import find_run
from napari_volseg.cli.options import (
    Commands,
    add_json_option,
    add_runs_option,
    print_json,
    say,
)
from napari_volseg.errors import DataError
from napari_volseg.runs import (
    NewLabels,
    add_revision,
    is_locked,
    newest_annotated,
    newest_revision,
    read_annotated,
    read_config,
)

__all__ = ["add_commands"]


def add_commands(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "labels",
        help="give new labels to a run, also while it trains",
        description="Give new labels to a run. A training takes them at its next step "
        "and goes on; one that has ended takes them when it is resumed. Images and "
        "what is held out stay as they are.",
        allow_abbrev=False,
    )
    parser.add_argument("run_to_teach", metavar="RUN")
    parser.add_argument(
        "--label",
        action="append",
        required=True,
        metavar="SRC",
        help="labels of an image of the run; once for each image, in their order",
    )
    parser.add_argument(
        "--mask",
        action="append",
        metavar="SRC",
        help="where they count; without masks, as data.annotated of the run says, or "
        "where the labels before counted if the run has masks",
    )
    add_runs_option(parser)
    add_json_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the labels into the run, and say when they are taken."""
    folder = find_run(args.run_to_teach, args.runs)
    masks = args.mask or [None] * len(args.label)
    if len(masks) != len(args.label):
        raise DataError(
            f"there are {len(args.label)} --label and {len(masks)} --mask: give each "
            "its mask, or none at all"
        )
    before = newest_revision(folder)
    revision = add_revision(folder, _read(folder, args.label, masks))
    is_training = is_locked(folder)
    if args.json:
        answer = {"folder": folder, "revision": revision, "training": is_training}
        print_json(answer)
        return 0
    if revision == before:
        say(f"the labels are those that {folder} has: nothing to do")
        return 0
    say(f"revision {revision} of {folder}")
    if is_training:
        say("the training takes it at its next step; its log says what changed")
    else:
        say(f"next: volseg train '{folder}' --resume")
    return 0


def _read(
    folder: Path, labels: Sequence[str], masks: Sequence[str | None]
) -> list[NewLabels]:
    """Read labels and where they count.

    What was not annotated is not background now: labels without a mask of their own
    keep the one before, unless the labels themselves say what is annotated.
    """
    data = read_config(folder).data
    kept: Sequence[NDArray[np.bool_] | None] = [None] * len(labels)
    if data.annotated == "everywhere":
        known = newest_annotated(folder)
        if len(known) == len(labels):  # otherwise the run refuses them
            kept = known
    given = []
    for label, mask, before in zip(labels, masks, kept, strict=True):
        new = read_annotated(label, mask, data.annotated, data.background_id)
        counts = before if mask is None and before is not None else new[1]
        given.append(NewLabels(new[0], counts))
    return given
