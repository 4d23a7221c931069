"""Commands that this package starts by itself, in processes of their own."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from napari_volseg.cli.options import Commands

__all__ = ["add_commands"]


def add_commands(commands: Commands) -> None:
    """Add ``worker``, ``retune`` and ``probe``, which no help lists."""
    worker = commands.add_parser("worker", description="Do the job of a folder.")
    worker.add_argument("folder", type=Path)
    worker.add_argument("--resume", action="store_true")
    worker.add_argument(
        "--with-parent", action="store_true", help="end when standard input closes"
    )
    worker.set_defaults(run=_worker)
    retune = commands.add_parser("retune", description="Segment maps on request.")
    retune.set_defaults(run=_retune)
    probe = commands.add_parser("probe", description="Try one step of a network.")
    probe.set_defaults(run=_probe)


def _worker(args: argparse.Namespace) -> int:
    from napari_volseg.worker import serve

    return serve(args.folder, resume=args.resume, with_parent=args.with_parent)


def _retune(args: argparse.Namespace) -> int:
    from napari_volseg import retuning

    retuning.serve(sys.stdin.buffer, sys.stdout.buffer)
    return 0


def _probe(args: argparse.Namespace) -> int:
    from napari_volseg.probing import run_probe

    run_probe(sys.stdin.read())
    return 0
