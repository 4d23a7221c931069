"""``volseg predict``: from an image and a model to maps and instances."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_volseg.cli.complete import check_complete, check_settings, describe_complete
from napari_volseg.cli.job import run_in_terminal
from napari_volseg.cli.maps_file import ENDINGS, take_back, write_maps_file
from napari_volseg.cli.models import SECTIONS, find_model, model_settings
from napari_volseg.cli.options import (
    Commands,
    add_json_option,
    print_json,
    say,
)
from napari_volseg.cli.outputs import check_output, refuse_inputs
from napari_volseg.cli.unfinished import (
    begin,
    find_unfinished,
    keep_what_is_done,
    place_of,
    refuse_in_use,
    remove,
    remove_leftovers,
)
from napari_volseg.config import InferenceConfig, InstancesConfig
from napari_volseg.errors import DataError
from napari_volseg.io import (
    expand_home,
    expand_sources,
    open_mask,
    open_volume,
    parse_source,
    read_mask,
)
from napari_volseg.runs import (
    absolute_source,
    begin_session,
    create_prediction,
    lock,
    read_prediction,
)
from napari_volseg.volume import ArrayLike, Volume

__all__ = ["add_commands"]


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
    parser.add_argument("source", metavar="SRC", help="the image, or a glob")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="OUT",
        help="OUT.h5 or OUT.zarr with 'maps' (C,Z,Y,X) and 'instances' (Z,Y,X); "
        "default: <image>_volseg.h5 in this folder; for a glob, a folder",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with a prediction that was stopped or killed, from its last block",
    )
    parser.add_argument("--mask", metavar="SRC", help="where to predict")
    parser.add_argument(
        "--scheduler",
        metavar="local|processes=N|tcp://HOST:PORT",
        help="predict blocks on workers of dask.distributed: one for each GPU or four "
        "processors of this machine, N of them, or those of a scheduler",
    )
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
    """Predict one volume after the other, and say where the results are."""
    if args.scheduler:
        _check_scheduler(args.scheduler)
    model = find_model(args.model)
    inference, instances = model_settings(model, args.settings)
    sources = expand_sources([args.source])
    outputs = _outputs(sources, args.output)
    refuse_inputs(outputs, [*sources, args.mask, model])
    requests = [
        _Request(model, source, output, inference, instances)
        for source, output in zip(sources, outputs, strict=True)
    ]
    complete = [request for request in requests if _is_complete(request, args)]
    answers = []
    for request in requests:
        if request in complete:
            sys.stderr.write(f"volseg: {request.output} is complete\n")
            if args.json:
                answers.append(describe_complete(request.output))
            continue
        answer, code = _predict(request, args)
        if answer is not None:
            answers.append(answer)
        if code:
            return code
    if args.json:
        print_json(answers[0] if len(sources) == 1 else answers)
    elif answers:
        path = answers[-1]["path"]
        say(f"next: 'volseg segment {path} instances.mask=0.6' tries other thresholds")
    return 0


def _check_scheduler(scheduler: str) -> None:
    from napari_volseg.spreading import check_scheduler

    check_scheduler(scheduler)


@dataclass(frozen=True, slots=True)
class _Request:
    """One volume to predict."""

    model: Path
    source: str
    output: Path
    inference: InferenceConfig
    instances: InstancesConfig


def _is_complete(request: _Request, args: argparse.Namespace) -> bool:
    """Return whether nothing is left to do; refuse what cannot be done."""
    output, place = request.output, place_of(request.output)
    refuse_in_use(place)
    if not (args.resume and output.exists()):
        check_output(output, ENDINGS, overwrite=args.overwrite)
        _check_unfinished(output, args)
    remove_leftovers(place)
    if not (args.resume and output.exists()) or place.exists():
        return False
    image = _open(request, args)
    check_complete(output, image, request.source, request.model)
    check_settings(output, request.inference, args.mask, args.settings)
    return True


def _open(request: _Request, args: argparse.Namespace) -> Volume:
    voxel_size = tuple(args.voxel_size) if args.voxel_size else None
    return open_volume(request.source, voxel_size=voxel_size)


def _predict(
    request: _Request, args: argparse.Namespace
) -> tuple[dict[str, Any] | None, int]:
    image = _open(request, args)
    place = place_of(request.output)
    refuse_in_use(place)
    old = find_unfinished(place) if args.resume else None
    job = old or _create(request, image, args)
    try:
        if old is not None:
            take_back(old)
            _refuse_other(old, request, image, args.mask)
            begin_session(old, resume=True)
        finished, code = run_in_terminal(
            job, resume=old is not None, scheduler=args.scheduler
        )
        if finished.reason != "completed":
            return None, code or 1
        with lock(job):
            n_instances = write_maps_file(
                request.output,
                job,
                image.voxel_size,
                model=request.model,
                source=absolute_source(request.source),
                instances=request.instances,
                inference=request.inference,
                mask=absolute_source(args.mask) if args.mask else None,
            )
        remove(place)
    finally:
        keep_what_is_done(place)
    if not args.json:
        say(f"{n_instances} instances: {request.output}")
    answer = {
        "path": request.output,
        "n_instances": n_instances,
        "voxel_size": image.voxel_size,
        "model": request.model,
        "instances": request.instances.model_dump(mode="json"),
        "message": finished.message,
    }
    return answer, code


def _create(request: _Request, image: Volume, args: argparse.Namespace) -> Path:
    mask = read_mask(args.mask) if args.mask else None

    def create(folder: Path) -> Path:
        return create_prediction(
            request.model,
            image,
            absolute_source(request.source),
            folder,
            inference=request.inference,
            instances=request.instances,
            mask=mask,
            device=args.device,
        )

    return begin(place_of(request.output), create)


def _check_unfinished(output: Path, args: argparse.Namespace) -> None:
    if args.resume or args.overwrite or find_unfinished(place_of(output)) is None:
        return
    raise DataError(
        f"{place_of(output)} holds a prediction that did not end: go on with --resume, "
        "or start anew with --overwrite"
    )


def _refuse_other(
    job: Path, request: _Request, image: Volume, mask: str | None
) -> None:
    """Refuse to go on with a prediction that was of something else."""
    old = read_prediction(job)
    asked = {
        "model": (old.model, request.model),
        "image": (old.source, absolute_source(request.source)),
        "voxel size": (old.image.voxel_size, image.voxel_size),
        "settings of inference": (old.inference, request.inference),
        "settings of instances": (old.instances, request.instances),
    }
    others = [what for what, (before, now) in asked.items() if before != now]
    if not _same_mask(old.mask_ZYX, open_mask(mask) if mask else None):
        others.append("mask")
    if others:
        raise DataError(
            f"the prediction in {job.parent} has another {others[0]}: give the same as "
            "then, or start anew with --overwrite"
        )


def _same_mask(old_ZYX: ArrayLike | None, new_ZYX: ArrayLike | None) -> bool:
    """Return whether two masks, or none, are non-zero in the same voxels."""
    if old_ZYX is None or new_ZYX is None:
        return old_ZYX is new_ZYX
    if old_ZYX.shape != new_ZYX.shape:
        return False
    return all(
        np.array_equal(
            np.asarray(old_ZYX[z : z + 16]) != 0, np.asarray(new_ZYX[z : z + 16]) != 0
        )
        for z in range(0, old_ZYX.shape[0], 16)
    )


def _outputs(sources: Sequence[str], output: Path | None) -> list[Path]:
    """Return where the prediction of each source goes."""
    folder = Path()
    if output is not None:
        output = expand_home(output).absolute()
        if output.is_dir() and output.suffix != ".zarr":
            folder = output
        elif len(sources) == 1:
            return [output]
        else:
            raise DataError(
                f"{len(sources)} images match but -o {output} is one file: give the "
                "folder for all of them, which must be there"
            )
    stems = [parse_source(source).path.name.split(".")[0] for source in sources]
    if len(set(stems)) < len(stems):
        raise DataError("several of the images have the same name: predict them singly")
    return [(folder / f"{stem}_volseg.h5").absolute() for stem in stems]
