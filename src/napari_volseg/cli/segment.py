"""``volseg segment``: run the watershed again on stored maps."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from napari_volseg.cli.maps_file import (
    check_replaceable,
    read_maps,
    read_thresholds,
    replace_instances,
)
from napari_volseg.cli.options import (
    Commands,
    add_json_option,
    print_json,
    say,
)
from napari_volseg.cli.unfinished import working_folder
from napari_volseg.config import (
    InferenceConfig,
    InstancesConfig,
    apply_overrides,
    build_config,
)
from napari_volseg.errors import DataError
from napari_volseg.io import expand_home, open_labels, write_json
from napari_volseg.models import read_model_info
from napari_volseg.runs import is_prediction
from napari_volseg.runs.prediction import REQUEST

__all__ = ["add_commands"]


SECTIONS = ("instances",)


def add_commands(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "segment",
        help="run the watershed again on stored maps",
        description="Replace 'instances' in the output of 'volseg predict', or in the "
        "folder of a prediction, by those that other thresholds give. Thresholds not "
        "named stay as they are stored there.",
        usage="volseg segment OUT.h5|OUT.zarr|FOLDER [instances.key=value ...]",
        allow_abbrev=False,
    )
    parser.add_argument("file", type=Path, metavar="OUT.h5|OUT.zarr|FOLDER")
    parser.add_argument("--progress", type=Path, help=argparse.SUPPRESS)
    add_json_option(parser)
    parser.sections = SECTIONS
    parser.set_defaults(run=run, takes_settings=True)


def run(args: argparse.Namespace) -> int:
    """Segment the maps anew."""
    path = expand_home(args.file)
    for setting in args.settings:
        if not setting.startswith("instances."):
            raise DataError(
                f"'{setting}' does not concern instances: settings begin with "
                "instances."
            )
    is_folder = is_prediction(path)
    stored = _thresholds_of(path) if is_folder else read_thresholds(path)
    tree = {"instances": stored.model_dump(mode="json")}
    merged = build_config(apply_overrides(tree, args.settings), "the command line")
    if is_folder:
        n_instances = _segment_prediction(path, merged.instances, args.progress)
    else:
        n_instances = _segment_file(path, merged.instances)
    if args.json:
        thresholds = merged.instances.model_dump(mode="json")
        print_json({"path": path, "n_instances": n_instances, "instances": thresholds})
    else:
        say(f"{n_instances} instances: {path}")
    return 0


def _segment_file(path: Path, config: InstancesConfig) -> int:
    maps = read_maps(path)
    check_replaceable(path)
    from napari_volseg.instances import segment_stored

    # Beside the maps, where there must be room for the new instances anyway.
    with working_folder(Path(os.path.realpath(path))) as place:
        target = place / "instances.zarr"
        result = segment_stored(
            maps.data,
            target,
            config,
            maps.voxel_size,
            memory=round(InferenceConfig().memory_gb * 1e9),
        )
        labels = open_labels(str(target))
        replace_instances(path, labels, maps.voxel_size, config, place)
    return result.n_instances


def _segment_prediction(
    folder: Path, config: InstancesConfig, progress: Path | None
) -> int:
    from napari_volseg.resegmenting import resegment

    def report(done: int, total: int) -> None:
        if progress is not None:
            write_json(progress, {"done": done, "total": total})

    return resegment(folder, config, report)


def _thresholds_of(folder: Path) -> InstancesConfig:
    """Return the thresholds of a prediction: those asked for, else its model's."""
    try:
        request = json.loads((folder / REQUEST).read_text("utf-8"))
        if request["instances"] is not None:
            return InstancesConfig.model_validate(request["instances"])
        return read_model_info(request["model"]).instances
    except (OSError, ValueError, KeyError, TypeError):
        return InstancesConfig()
