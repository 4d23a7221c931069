"""``volseg predict``: from an image and a model to maps and instances."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from napari_volseg.cli.job import run_in_terminal
from napari_volseg.cli.maps_file import check_output, write_maps_file
from napari_volseg.cli.options import (
    Commands,
    add_json_option,
    print_json,
    say,
)
from napari_volseg.config import (
    InferenceConfig,
    InstancesConfig,
    apply_overrides,
    build_config,
)
from napari_volseg.errors import DataError
from napari_volseg.io import open_volume, parse_source, read_mask
from napari_volseg.models import read_model_info
from napari_volseg.runs import (
    absolute_source,
    create_prediction,
    default_runs_dir,
    is_run,
    read_config,
)

__all__ = ["add_commands"]


SECTIONS = ("inference", "instances")
"""Sections of the configuration that concern a prediction."""


def add_commands(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "predict",
        help="predict maps and instances of a volume",
        description="Predict the maps (mask, boundary, distance) and the instances of "
        "a volume.",
        usage="volseg predict MODEL|RUN_FOLDER SRC [-o OUT.h5|OUT.zarr] "
        "[section.key=value ...] [options]",
        allow_abbrev=False,
    )
    parser.add_argument(
        "model",
        metavar="MODEL|RUN_FOLDER",
        help="a model.safetensors, a checkpoint, a run folder or its name",
    )
    parser.add_argument("source", metavar="SRC", help="the image")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="OUT",
        help="OUT.h5 or OUT.zarr with 'maps' (C,Z,Y,X) and 'instances' (Z,Y,X); "
        "default: <image>_volseg.h5 in this folder",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output")
    parser.add_argument("--mask", metavar="SRC", help="where to predict")
    parser.add_argument(
        "--voxel-size",
        nargs=3,
        type=float,
        metavar=("Z", "Y", "X"),
        help="voxel size in nm, in place of what the file says",
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda", "mps"), default="auto"
    )
    add_json_option(parser)
    parser.sections = SECTIONS
    parser.set_defaults(run=run, takes_settings=True)


def run(args: argparse.Namespace) -> int:
    """Predict, and say where the result is."""
    model = find_model(args.model)
    stem = parse_source(args.source).path.name.split(".")[0]
    output = (args.output or Path(f"{stem}_volseg.h5")).expanduser().absolute()
    check_output(output, overwrite=args.overwrite)
    inference, instances = _model_settings(model, args.settings)
    voxel_size = tuple(args.voxel_size) if args.voxel_size else None
    image = open_volume(args.source, voxel_size=voxel_size)
    mask = read_mask(args.mask) if args.mask else None
    # Beside the output, where there must be room for it anyway.
    with tempfile.TemporaryDirectory(prefix=".volseg-", dir=output.parent) as place:
        job = create_prediction(
            model,
            image,
            absolute_source(args.source),
            Path(place),
            inference=inference,
            instances=instances,
            mask=mask,
            device=args.device,
        )
        finished, code = run_in_terminal(job)
        if finished.reason != "completed":
            return code or 1
        n_instances = write_maps_file(
            output, job, image.voxel_size, model=model, instances=instances
        )
    answer = {
        "path": output,
        "n_instances": n_instances,
        "voxel_size": image.voxel_size,
        "model": model,
        "instances": instances.model_dump(mode="json"),
        "message": finished.message,
    }
    if args.json:
        print_json(answer)
    else:
        say(f"{n_instances} instances: {output}")
        say(f"next: volseg segment '{output}' instances.mask=… tries other thresholds")
    return code


def find_model(text: str) -> Path:
    """Return the model file that is meant.

    Parameters
    ----------
    text
        A model file, a checkpoint, a run folder, or the name of a run in the
        folder of runs.

    Raises
    ------
    DataError
        If there is no such thing, or the run has no model yet.
    """
    for path in (Path(text).expanduser(), default_runs_dir() / text):
        if path.is_file():
            return path.absolute()
        if is_run(path):
            return _model_of_run(path.absolute())
    raise DataError(
        f"there is no model '{text}': give a model.safetensors, a checkpoint or a "
        "run folder; 'volseg runs' lists yours"
    )


def _model_of_run(folder: Path) -> Path:
    names = ("model.safetensors", "checkpoints/best.ckpt", "checkpoints/last.ckpt")
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(
        f"the run {folder} has no model yet: train it further with 'volseg train "
        f"{folder} --resume'"
    )


def _model_settings(
    model: Path, settings: Sequence[str]
) -> tuple[InferenceConfig, InstancesConfig]:
    """Return the model's settings with those of the command line on top."""
    for setting in settings:
        if setting.split(".")[0] not in SECTIONS:
            raise DataError(
                f"'{setting}' does not concern a prediction: settings begin with "
                "inference. or instances."
            )
    if model.suffix == ".ckpt":
        run_folder = model.parent.parent
        if not is_run(run_folder):
            raise DataError(
                f"the checkpoint {model} is not in a run folder: use the "
                "model.safetensors that its run wrote"
            )
        config = read_config(run_folder)
        inference, instances = config.inference, config.instances
    else:
        info = read_model_info(model)
        inference, instances = info.inference, info.instances
    tree = {
        "inference": inference.model_dump(mode="json"),
        "instances": instances.model_dump(mode="json"),
    }
    merged = build_config(apply_overrides(tree, settings), where="the command line")
    return merged.inference, merged.instances
