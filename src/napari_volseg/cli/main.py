"""Parse the command line and run one command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from napari_volseg.allocator import keep_freed_memory
from napari_volseg.cli import hidden
from napari_volseg.cli.options import SettingsParser
from napari_volseg.errors import DataError

__all__ = ["build_parser", "main"]

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

_MODULES = (
    "train",
    "labels",
    "profile",
    "bench",
    "testing",
    "predict",
    "segment",
    "fit",
    "evaluate",
    "check",
    "compare",
    "view",
    "find_lr",
    "sweep",
    "show",
    "doctor",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``volseg`` and return its exit code.

    0: done; 1: failed; 2: the command line, a setting or the data must be
    changed; 130: interrupted by Ctrl-C.
    """
    # Threads of OpenMP that wait by spinning take the processor from everything
    # else: beside a busy program, training was measured 3 to 4 times slower.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("KMP_BLOCKTIME", "0")
    keep_freed_memory()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["demo"]:
        return _guarded(lambda: _demo(arguments[1:]))
    # Processes of our own start often, and sooner without what the others load.
    is_ours = bool(arguments) and arguments[0] in hidden.COMMANDS
    parser = build_parser(("hidden",) if is_ours else _MODULES)
    args, rest = parser.parse_known_args(arguments)
    settings = [text for text in rest if "=" in text and not text.startswith("-")]
    strange = [text for text in rest if text not in settings]
    if not getattr(args, "takes_settings", False):
        strange = rest
    if strange:
        parser.error(f"unrecognised arguments: {' '.join(strange)}")
    args.settings = settings
    return _guarded(lambda: int(args.run(args)))


def build_parser(modules: Sequence[str] = _MODULES) -> argparse.ArgumentParser:
    """Return the parser of all commands, or of those of some modules of this folder."""
    from napari_volseg import __version__

    parser = argparse.ArgumentParser(
        prog="volseg",
        description="Train, predict and review instance segmentation of 3D volumes.",
        epilog="'volseg COMMAND --help' explains a command. A source SRC is "
        "path[:dataset][slices], for instance em.h5:raw[0:100,:,:].",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"volseg {__version__}")
    commands = parser.add_subparsers(
        metavar="COMMAND", required=True, title="commands", parser_class=SettingsParser
    )
    for module in modules:
        import_module(f"napari_volseg.cli.{module}").add_commands(commands)
    demo = commands.add_parser(
        "demo", help="train and predict on generated volumes", add_help=False
    )
    demo.set_defaults(run=lambda args: _demo([]))
    return parser


def _demo(arguments: list[str]) -> int:
    from napari_volseg import demo

    return int(demo.main(arguments) or 0)


def _guarded(run: Callable[[], int]) -> int:
    """Turn what the user can mend into one sentence; let real defects show."""
    try:
        code = run()
        sys.stdout.flush()
        return code
    except DataError as error:
        _complain(str(error))
        return EXIT_USAGE
    except KeyboardInterrupt:
        _complain("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone, as in 'volseg runs | head -1'.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except OSError as error:
        _complain(str(error))
        return EXIT_FAILED


def _complain(message: str) -> None:
    sys.stderr.write(f"volseg: error: {message}\n")
