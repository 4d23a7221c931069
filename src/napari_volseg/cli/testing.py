"""``volseg test``: predict the test volumes of a run, and score them."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from napari_volseg.cli.job import run_in_terminal
from napari_volseg.cli.models import SECTIONS, find_model, model_settings, run_of
from napari_volseg.cli.options import (
    Commands,
    add_json_option,
    add_runs_option,
    print_json,
    say,
)
from napari_volseg.cli.outputs import refuse_inputs
from napari_volseg.cli.settings import load_settings
from napari_volseg.cli.unfinished import working_folder
from napari_volseg.config import (
    Config,
    DataConfig,
    InferenceConfig,
    InstancesConfig,
    preset_names,
)
from napari_volseg.errors import DataError
from napari_volseg.io import expand_home
from napari_volseg.results import (
    LOG,
    PREDICTIONS,
    RESULTS,
    SEGMENTATION,
    TestScores,
    VolumeScores,
    append_log,
    result_files,
    result_folders,
    write_result_files,
    write_scores,
)
from napari_volseg.runs import (
    TestVolume,
    collect_test_volumes,
    create_prediction,
    default_runs_dir,
    list_runs,
    read_config,
    validation_volumes,
)

__all__ = ["add_checkpoint_option", "add_commands", "add_test_options", "run"]

_NAMED = {"best": "model.safetensors", "last": "checkpoints/last.ckpt"}


def add_commands(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "test",
        help="predict test volumes and score the prediction",
        description="Predict the test volumes (data.test_image, else the validation "
        "volumes), write predictions.h5, segmentation.h5 and instances.csv into the "
        "folder 'results' of the run, and the scores into its test_results.log.",
        usage="volseg test RUN|MODEL|PRESET|CONFIG.yaml [section.key=value ...] "
        "[options]",
        allow_abbrev=False,
    )
    parser.add_argument(
        "target",
        metavar="RUN|MODEL|PRESET|CONFIG.yaml",
        help="a run, a model, or a configuration, which means the newest run with its "
        "experiment_name",
    )
    add_checkpoint_option(parser)
    for kind, text in (
        ("image", "image, or a glob of images, in place of data.test_image"),
        ("label", "its instance labels"),
        ("mask", "where to predict and to score"),
    ):
        parser.add_argument(f"--{kind}", action="append", metavar="SRC", help=text)
    add_test_options(parser)
    add_runs_option(parser)
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda", "mps"), help="where to compute"
    )
    add_json_option(parser)
    parser.sections = ("data", *SECTIONS)
    parser.set_defaults(run=run, takes_settings=True)


def add_checkpoint_option(parser: argparse.ArgumentParser) -> None:
    """Offer another checkpoint than the run's model."""
    parser.add_argument(
        "--checkpoint",
        metavar="best|last|average|PATH",
        help="the checkpoint to test: by name, the mean of those that were kept, or a "
        "file; by default the run's model",
    )


def add_test_options(parser: argparse.ArgumentParser) -> None:
    """Offer where the results of a test go."""
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="DIR",
        help="folder of the results; by default 'results' in the run",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace results that are there"
    )


def run(args: argparse.Namespace) -> int:
    """Predict and score one volume after the other."""
    subject = _find(args)
    volumes = _volumes(args, subject)
    output = expand_home(args.output or subject.home / RESULTS).absolute()
    if output.is_dir() and any(output.iterdir()) and not args.overwrite:
        raise DataError(
            f"{output} has the results of an earlier test: --overwrite replaces them, "
            "-o DIR writes elsewhere"
        )
    folders = result_folders(output, [volume.image.name for volume in volumes])
    refuse_inputs(
        [file for folder in folders for file in result_files(folder)],
        [source for v in volumes for source in (v.source, *v.others)],
    )
    _make(output)
    scored: list[VolumeScores] = []
    for volume, folder in zip(volumes, folders, strict=True):
        code = _predict(volume, folder, subject)
        if code:
            return code
        scored.append(_score(volume, folder, output))
    scores = write_scores(output, subject.model, scored)
    log = (output if args.output else subject.home) / LOG
    append_log(log, scores)
    _tell(args, scores, output, log)
    return 0


@dataclass(frozen=True, slots=True)
class _Subject:
    """What is tested."""

    model: Path
    config: Config
    """Of the run, or of the configuration that was named."""
    run: Path | None
    home: Path
    """Folder that the results belong to."""
    inference: InferenceConfig
    instances: InstancesConfig
    device: str


def _find(args: argparse.Namespace) -> _Subject:
    settings = list(args.settings)
    wanted = [s for s in settings if s.split(".")[0] in SECTIONS]
    target = expand_home(args.target)
    named = args.target in preset_names() or target.suffix in {".yaml", ".yml"}
    config = load_settings(args.target, settings) if named else None
    model = (
        find_model(args.target, args.runs)
        if config is None
        else _model_of(config, args)
    )
    model = _checkpoint(args.checkpoint, model)
    folder = run_of(model)
    inference, instances = model_settings(model, wanted)
    if config is None and folder is not None:
        config = read_config(folder, settings)
    if config is None:
        rest = [setting for setting in settings if setting not in wanted]
        config = Config() if not rest else load_settings("quick", rest)
    return _Subject(
        model=model,
        config=config,
        run=folder,
        home=folder or model.parent,
        inference=inference,
        instances=instances,
        device=args.device or config.system.device,
    )


def _model_of(config: Config, args: argparse.Namespace) -> Path:
    """Return the model of the newest run with the configuration's name."""
    if args.checkpoint and args.checkpoint not in (*_NAMED, "average"):
        return find_model(args.checkpoint)
    runs_dir = expand_home(args.runs or default_runs_dir()).absolute()
    for summary in list_runs(runs_dir):
        done = summary.has_model or summary.has_checkpoint
        if summary.preset == config.experiment_name and done:
            return find_model(str(summary.folder))
    raise DataError(
        f"no run in {runs_dir} has the experiment_name '{config.experiment_name}' and "
        f"a model: train it with 'volseg train {args.target}', or give --checkpoint"
    )


def _checkpoint(wanted: str | None, model: Path) -> Path:
    if wanted is None:
        return model
    if wanted not in (*_NAMED, "average"):
        return find_model(wanted)
    folder = run_of(model)
    if folder is None:
        raise DataError(
            f"--checkpoint {wanted} needs a run, and {model} is not in one: give the "
            "file itself"
        )
    if wanted == "average":
        from napari_volseg.soup import average_checkpoints

        return average_checkpoints(
            folder / "checkpoints", folder / "average.safetensors"
        )
    path = folder / _NAMED[wanted]
    if not path.is_file():
        raise DataError(f"the run {folder} has no {path.name} yet: train it further")
    return path


def _volumes(args: argparse.Namespace, subject: _Subject) -> list[TestVolume]:
    given = {f"test_{kind}": getattr(args, kind) for kind in ("image", "label", "mask")}
    data = subject.config.data
    if any(given.values()):
        if not args.image:
            raise DataError("--label and --mask need an --image beside them")
        changes = {key: tuple(sources or ()) for key, sources in given.items()}
        data = data.model_copy(update=changes)
    volumes = collect_test_volumes(data)
    if not volumes and data.val_image:
        volumes = collect_test_volumes(_validation_as_test(data))
    if not volumes and subject.run is not None:
        volumes = validation_volumes(subject.run)
    if not volumes:
        raise DataError(
            "there is nothing to test on: give --image SRC --label SRC, or "
            "data.test_image and data.test_label in the configuration"
        )
    return volumes


def _validation_as_test(data: DataConfig) -> DataConfig:
    changes = {
        f"test_{k}": getattr(data, f"val_{k}") for k in ("image", "label", "mask")
    }
    return data.model_copy(update=changes)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise DataError(
            f"cannot write in {folder}: {error.strerror}; choose another with -o DIR"
        ) from None


def _predict(volume: TestVolume, folder: Path, subject: _Subject) -> int:
    _make(folder)
    with working_folder(folder / PREDICTIONS) as place:
        job = create_prediction(
            subject.model,
            volume.image,
            volume.source,
            place,
            inference=subject.inference,
            instances=subject.instances,
            mask=volume.mask_ZYX,
            device=subject.device,
        )
        finished, code = run_in_terminal(job)
        if finished.reason != "completed":
            return code or 1
        write_result_files(folder, job)
    return code


def _score(volume: TestVolume, folder: Path, output: Path) -> VolumeScores:
    from napari_volseg.io import read_labels
    from napari_volseg.metrics import evaluate

    labels_ZYX = read_labels(f"{folder / SEGMENTATION}:main")
    truth_ZYX = volume.labels_ZYX
    metrics = (
        evaluate(labels_ZYX, truth_ZYX, volume.annotated_ZYX)
        if truth_ZYX is not None
        else {}
    )
    return VolumeScores(
        name=Path(volume.image.name).name,
        folder=folder.relative_to(output).as_posix(),
        n_instances=int(labels_ZYX.max(initial=0)),
        metrics=metrics,
        source=volume.source or "",
    )


def _tell(
    args: argparse.Namespace, scores: TestScores, output: Path, log: Path
) -> None:
    if args.json:
        answer = {"folder": output, "log": log, "mean": scores.mean, **asdict(scores)}
        print_json(answer)
        return
    for volume in scores.volumes:
        shown = "  ".join(
            f"{key} {volume.metrics[key]:.4f}"
            for key in ("f1_50", "ap", "adapted_rand_error")
            if key in volume.metrics
        )
        say(f"{volume.name}: {volume.n_instances} instances  {shown}")
    say(f"results: {output}")
    say(f"scores: {log}")
    say(f"next: volseg view '{output}'")
