"""``volseg labels``: give new labels to a run, also while it trains."""

from __future__ import annotations

import argparse

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
        help="where they count; without masks, as data.annotated of the run says",
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
    data = read_config(folder).data
    before = newest_revision(folder)
    revision = add_revision(
        folder,
        [
            NewLabels(*read_annotated(label, mask, data.annotated, data.background_id))
            for label, mask in zip(args.label, masks, strict=True)
        ],
    )
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
