"""``volseg check``: find what is wrong with an annotation, and mend a copy."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from numpy.typing import NDArray

from napari_volseg.cli.options import Commands, add_json_option, print_json, say
from napari_volseg.cli.outputs import check_output, refuse_inputs
from napari_volseg.errors import DataError
from napari_volseg.io import expand_home, open_volume, read_labels, read_mask
from napari_volseg.volume import AnnotationRule, Volume, read_annotation

if TYPE_CHECKING:
    from napari_volseg.annotation_check import Finding

__all__ = ["add_commands"]

_FOUND = 1
"""Exit code when there is something to mend, as of tools that check code."""


def add_commands(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "check",
        help="check an annotation before training",
        description="Look for ids in two pieces, tiny fragments, holes, gaps, missing "
        "slices, objects cut by a face, duplicated, blank, saturated and shifted "
        "slices, and labels that do not lie where the image does. Exit code 1 when "
        "something should be mended.",
        allow_abbrev=False,
    )
    parser.add_argument("--image", required=True, metavar="SRC", help="the image")
    parser.add_argument(
        "--label", required=True, metavar="SRC", help="its instance labels"
    )
    parser.add_argument("--mask", metavar="SRC", help="where they are annotated")
    parser.add_argument(
        "--annotated",
        choices=get_args(AnnotationRule),
        default="everywhere",
        help="which voxels count (data.annotated)",
    )
    parser.add_argument(
        "--background-id",
        type=int,
        default=0,
        metavar="ID",
        help="an id that means background (data.background_id)",
    )
    parser.add_argument(
        "--min-size",
        type=int,
        metavar="N",
        help="pieces of fewer voxels are fragments (default: a fiftieth of the median "
        "object, at least 8)",
    )
    parser.add_argument(
        "--kind",
        action="append",
        metavar="KIND",
        help="only findings of this kind; may be given again",
    )
    parser.add_argument(
        "--all", action="store_true", help="also what is only worth knowing"
    )
    parser.add_argument(
        "--fix",
        type=Path,
        metavar="OUT.h5",
        help="write a copy of the labels in which the listed findings are mended "
        "where that is possible; no input file is changed",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="let --fix replace a file"
    )
    parser.add_argument("--rows", type=_numbers, help=argparse.SUPPRESS)
    add_json_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check, print, and write the mended copy."""
    from napari_volseg.annotation_check import KINDS, check_annotation, summary_words

    for kind in args.kind or ():
        if kind not in KINDS:
            raise DataError(f"--kind {kind} is none of {', '.join(KINDS)}")
    if args.min_size is not None and args.min_size < 1:
        raise DataError("--min-size must be 1 or above")
    if args.fix is not None:
        _check_target(args)
    image = open_volume(args.image)
    stored = read_labels(args.label)
    mask = read_mask(args.mask) if args.mask else None
    labels, annotated = read_annotation(
        stored, args.annotated, args.background_id, mask, name=args.label
    )
    findings = check_annotation(image, labels, annotated, min_size=args.min_size)
    shown = _choose(findings, args)
    n_fixed = None
    if args.fix is not None:
        n_fixed = _write_fixed(args.fix, image, stored, labels, annotated, shown)
    if args.json:
        print_json(
            {
                "summary": summary_words(shown),
                "findings": [dataclasses.asdict(finding) for finding in shown],
                "n_fixed": n_fixed,
            }
        )
    else:
        _print(shown, summary_words(shown))
        if n_fixed is not None:
            say(f"mended {n_fixed} in {args.fix}; look at them before you train")
    return _FOUND if any(f.severity != "info" for f in shown) else 0


def _choose(findings: Sequence[Finding], args: argparse.Namespace) -> list[Finding]:
    if args.rows is not None:
        return [finding for i, finding in enumerate(findings) if i in args.rows]
    return [
        finding
        for finding in findings
        if (args.all or args.kind or finding.severity != "info")
        and (not args.kind or finding.kind in args.kind)
    ]


def _check_target(args: argparse.Namespace) -> None:
    """Refuse to write over what is read, or unasked over a file, before the work."""
    args.fix = expand_home(args.fix)
    refuse_inputs([args.fix], [args.image, args.label, args.mask], "--fix")
    check_output(args.fix, (".h5",), overwrite=args.overwrite, option="--fix")


def _write_fixed(
    path: Path,
    image: Volume,
    stored: NDArray[Any],
    labels: NDArray[Any],
    annotated: NDArray[Any] | None,
    findings: Sequence[Finding],
) -> int:
    from napari_volseg.annotation_check import fix_labels
    from napari_volseg.io import write_hdf5

    mended, n_fixed = fix_labels(labels, annotated, findings)
    # What a background id or rule hides stays as it was painted.
    is_same = mended == labels
    mended[is_same] = stored[is_same]
    write_hdf5(path, {"labels": mended}, image.voxel_size)
    return n_fixed


def _print(findings: Sequence[Finding], summary: str) -> None:
    for finding in findings:
        z, y, x = finding.position
        fix = f"; {finding.fix}" if finding.fix else ""
        say(
            f"{finding.severity:<8} {finding.kind:<10} z={z} y={y} x={x}  "
            f"{finding.message}{fix}"
        )
    say(summary)


def _numbers(text: str) -> set[int]:
    return {int(part) for part in text.split(",") if part}
