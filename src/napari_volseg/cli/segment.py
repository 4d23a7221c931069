"""``volseg segment``: run the watershed again on stored maps."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from napari_volseg.cli.maps_file import read_maps, read_thresholds, replace_instances
from napari_volseg.cli.options import (
    Commands,
    add_json_option,
    print_json,
    say,
)
from napari_volseg.config import apply_overrides, build_config
from napari_volseg.errors import DataError
from napari_volseg.io import open_labels, writing

__all__ = ["add_commands"]


SECTIONS = ("instances",)


def add_commands(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "segment",
        help="run the watershed again on stored maps",
        description="Replace 'instances' in the output of 'volseg predict' by those "
        "that other thresholds give. Thresholds not named stay as they are stored in "
        "the file.",
        usage="volseg segment OUT.h5|OUT.zarr [instances.key=value ...] [--json]",
        allow_abbrev=False,
    )
    parser.add_argument("file", type=Path, metavar="OUT.h5|OUT.zarr")
    add_json_option(parser)
    parser.sections = SECTIONS
    parser.set_defaults(run=run, takes_settings=True)


def run(args: argparse.Namespace) -> int:
    """Segment the maps anew."""
    path = args.file.expanduser()
    for setting in args.settings:
        if not setting.startswith("instances."):
            raise DataError(
                f"'{setting}' does not concern instances: settings begin with "
                "instances."
            )
    maps = read_maps(path)
    tree = {"instances": read_thresholds(path).model_dump(mode="json")}
    merged = build_config(apply_overrides(tree, args.settings), "the command line")
    from napari_volseg.instances import segment_stored

    # Beside the maps, where there must be room for the new instances anyway.
    with writing(path):
        folder = tempfile.TemporaryDirectory(prefix=".volseg-", dir=path.parent)
    with folder as place:
        target = Path(place) / "instances.zarr"
        result = segment_stored(maps.data, target, merged.instances, maps.voxel_size)
        labels = open_labels(str(target))
        replace_instances(path, labels, maps.voxel_size, merged.instances)
    n_instances = result.n_instances
    if args.json:
        thresholds = merged.instances.model_dump(mode="json")
        print_json({"path": path, "n_instances": n_instances, "instances": thresholds})
    else:
        say(f"{n_instances} instances: {path}")
    return 0
