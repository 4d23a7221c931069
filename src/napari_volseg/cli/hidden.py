"""Commands that this package starts by itself, in processes of their own."""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from napari_volseg.cli.options import Commands, print_json
from napari_volseg.priority import step_back

__all__ = ["COMMANDS", "add_commands"]


def add_commands(commands: Commands) -> None:
    """Add the commands."""
    parsers = {}
    for name, (description, run) in COMMANDS.items():
        parsers[name] = commands.add_parser(name, description=description)
        parsers[name].set_defaults(run=run)
    for name in ("worker", "plan", "try-forms"):
        parsers[name].add_argument("folder", type=Path)
    parsers["worker"].add_argument("--resume", action="store_true")
    parsers["worker"].add_argument(
        "--with-parent", action="store_true", help="end when standard input closes"
    )
    parsers["helper"].add_argument("arguments", nargs=argparse.REMAINDER)


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


COMMANDS: dict[str, tuple[str, Callable[[argparse.Namespace], int]]] = {
    "worker": ("Do the job of a folder.", _worker),
    "retune": ("Segment maps on request.", _retune),
    "review": ("Edit instances on request.", _review),
    "probe": ("Try one step of a network.", _probe),
    "plan": ("Say what a run would do.", _plan),
    "helper": ("Run a command that ends when standard input closes.", _helper),
    "try-batch": ("Try steps of a training.", _try_batch),
    "try-forms": ("Time forward passes.", _try_forms),
    "rank": ("Train as one of several.", _rank),
}
