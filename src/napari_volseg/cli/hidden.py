"""Commands that this package starts by itself, in processes of their own."""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from pathlib import Path

from napari_volseg.cli.options import Commands, print_json
from napari_volseg.priority import step_back

__all__ = ["COMMANDS", "add_commands"]

COMMANDS = (
    "worker",
    "retune",
    "review",
    "probe",
    "plan",
    "helper",
    "try-batch",
    "try-forms",
    "rank",
)


def add_commands(commands: Commands) -> None:
    """Add the commands; no help lists them."""
    worker = commands.add_parser("worker", description="Do the job of a folder.")
    worker.add_argument("folder", type=Path)
    worker.add_argument("--resume", action="store_true")
    worker.add_argument(
        "--with-parent", action="store_true", help="end when standard input closes"
    )
    worker.set_defaults(run=_worker)
    retune = commands.add_parser("retune", description="Segment maps on request.")
    retune.set_defaults(run=_retune)
    review = commands.add_parser("review", description="Edit instances on request.")
    review.set_defaults(run=_review)
    probe = commands.add_parser("probe", description="Try one step of a network.")
    probe.set_defaults(run=_probe)
    plan = commands.add_parser("plan", description="Say what a run would do.")
    plan.add_argument("folder", type=Path)
    plan.set_defaults(run=_plan)
    helper = commands.add_parser(
        "helper", description="Run a command that ends when standard input closes."
    )
    helper.add_argument("arguments", nargs=argparse.REMAINDER)
    helper.set_defaults(run=_helper)
    batch = commands.add_parser("try-batch", description="Try steps of a training.")
    batch.set_defaults(run=_try_batch)
    forms = commands.add_parser("try-forms", description="Time forward passes.")
    forms.add_argument("folder", type=Path)
    forms.set_defaults(run=_try_forms)
    rank = commands.add_parser("rank", description="Train as one of several.")
    rank.set_defaults(run=_rank)


def _worker(args: argparse.Namespace) -> int:
    from napari_volseg.worker import serve

    return serve(args.folder, resume=args.resume, with_parent=args.with_parent)


def _retune(args: argparse.Namespace) -> int:
    from napari_volseg import retuning

    retuning.serve(sys.stdin.buffer, sys.stdout.buffer)
    return 0


def _review(args: argparse.Namespace) -> int:
    from napari_volseg.review.server import serve

    serve(sys.stdin.buffer, sys.stdout.buffer)
    return 0


def _plan(args: argparse.Namespace) -> int:
    """Print the plan of a run with the settings it leads to; nothing is trained."""
    from napari_volseg.devices import available_memory
    from napari_volseg.planning import plan_training
    from napari_volseg.runs import read_run

    config, pairs = read_run(args.folder)
    plan = plan_training(config, pairs, args.folder)
    more = {
        "free_bytes": available_memory(plan.compute.device),
        "config": plan.config.model_dump(mode="json"),
    }
    print_json({**plan.summary(), **more})
    return 0


def _helper(args: argparse.Namespace) -> int:
    """Run a command for a process that waits for it, and never outlive it."""
    from napari_volseg.cli.main import main

    def end_with_parent() -> None:
        while os.read(0, 4096):
            pass
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    step_back()
    return main(args.arguments)


def _probe(args: argparse.Namespace) -> int:
    from napari_volseg.probing import run_probe

    run_probe(sys.stdin.read())
    return 0


def _try_batch(args: argparse.Namespace) -> int:
    from napari_volseg.batching import run_trial

    sys.stdout.write(json.dumps(run_trial(sys.stdin.read())) + "\n")
    return 0


def _try_forms(args: argparse.Namespace) -> int:
    from napari_volseg.formtrials import run_form_trials

    run_form_trials(args.folder)
    return 0


def _rank(args: argparse.Namespace) -> int:
    from napari_volseg.ranks import serve_rank

    code = serve_rank()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    # All is written. Threads of native libraries that meet the end of the interpreter
    # abort the process now and then, which would fail a training that has ended well.
    os._exit(code)
