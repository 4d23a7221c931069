"""``volseg doctor``: what this machine has, and whether that is enough."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from napari_volseg.cli.options import (
    Commands,
    add_json_option,
    add_runs_option,
    print_json,
    say,
)
from napari_volseg.io import expand_home
from napari_volseg.processors import count_processors
from napari_volseg.runs import default_runs_dir

__all__ = ["add_commands"]

_NEEDED = (
    "napari-volseg", "torch", "monai", "numpy", "scipy", "scikit-image", "h5py", "zarr",
    "numcodecs", "tifffile", "safetensors", "numba", "connected-components-3d", "edt",
    "fastremap", "pydantic", "filelock", "psutil", "rich",
)  # fmt: skip
_OPTIONAL = ("napari", "magicgui", "superqt", "pyqtgraph", "tensorboard", "matplotlib",
             "neuroglancer", "optuna")  # fmt: skip
_QT_BINDINGS = ("PyQt6", "PySide6", "PyQt5", "PySide2")
_MIN_MEMORY = 2e9
_MIN_DISK = 1e9


def add_commands(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "doctor",
        help="check versions, devices, memory, disk and Qt",
        description="Check what this machine has. The exit code is 1 when something "
        "that every job needs is missing.",
    )
    add_runs_option(parser)
    add_json_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what was found; return 1 when a job could not run."""
    runs_dir = expand_home(args.runs or default_runs_dir()).absolute()
    problems: list[str] = []
    advice: list[str] = []
    packages = _packages(problems)
    answer: dict[str, Any] = {
        "python": platform.python_version(),
        "executable": sys.executable,
        "system": platform.platform(),
        "packages": packages,
        "devices": _devices(problems),
        "memory": _memory(advice),
        "runs": _runs_folder(runs_dir, problems, advice),
        "qt": _qt(packages, advice),
        "problems": problems,
        "advice": advice,
    }
    if args.json:
        print_json(answer)
    else:
        _print(answer)
    return 1 if problems else 0


def _packages(problems: list[str]) -> dict[str, str | None]:
    found = {name: _version(name) for name in (*_NEEDED, *_OPTIONAL, *_QT_BINDINGS)}
    missing = [name for name in _NEEDED if found[name] is None]
    if missing:
        problems.append(
            f"not installed: {', '.join(missing)}; run 'pip install napari-volseg'"
        )
    return found


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _devices(problems: list[str]) -> list[dict[str, Any]]:
    try:
        import torch
    except (ImportError, OSError) as error:
        problems.append(f"PyTorch cannot be loaded: {error}")
        return []
    from napari_volseg.devices import has_fast_bf16

    devices: list[dict[str, Any]] = [
        {
            "device": "cpu",
            "name": platform.processor() or platform.machine(),
            "cores": count_processors(),
            "fast_bf16": has_fast_bf16(),
        }
    ]
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        devices.append(
            {
                "device": f"cuda:{index}",
                "name": properties.name,
                "memory_bytes": properties.total_memory,
                "fast_bf16": torch.cuda.is_bf16_supported(including_emulation=False),
            }
        )
    if torch.backends.mps.is_available():
        devices.append({"device": "mps", "name": "Apple GPU", "fast_bf16": False})
    return devices


def _memory(advice: list[str]) -> dict[str, int]:
    memory = psutil.virtual_memory()
    if memory.available < _MIN_MEMORY:
        advice.append(
            f"{memory.available / 1e9:.1f} GB of memory are free: close other "
            "programs, or use small patches"
        )
    return {"total_bytes": int(memory.total), "available_bytes": int(memory.available)}


def _runs_folder(
    folder: Path, problems: list[str], advice: list[str]
) -> dict[str, Any]:
    """Try to write where runs will go, or in the nearest folder that exists."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            writable = True
    except OSError as error:
        writable = False
        problems.append(
            f"cannot write runs in {folder} ({error.strerror}): set VOLSEG_RUNS to "
            "another folder"
        )
    try:
        free = shutil.disk_usage(place).free
    except OSError:
        free = 0
    if writable and free < _MIN_DISK:
        advice.append(f"{free / 1e9:.1f} GB are free on the disk of {folder}")
    return {"folder": folder, "writable": writable, "free_bytes": free}


def _qt(packages: dict[str, str | None], advice: list[str]) -> dict[str, Any]:
    binding = next((name for name in _QT_BINDINGS if packages[name]), None)
    display = bool(
        sys.platform in ("win32", "darwin")
        or os.environ.get("DISPLAY")
        or os.environ.get("WAYLAND_DISPLAY")
    )
    if packages["napari"] is None:
        advice.append(
            "napari is not installed: 'pip install napari-volseg[all]' has it"
        )
    elif binding is None:
        advice.append("napari has no Qt: 'pip install napari-volseg[all]' brings one")
    return {
        "napari": packages["napari"],
        "binding": binding and f"{binding} {packages[binding]}",
        "display": display,
    }


def _print(answer: dict[str, Any]) -> None:
    say(f"Python    {answer['python']} ({answer['executable']})")
    say(f"System    {answer['system']}")
    versions = [f"{k} {v}" for k, v in answer["packages"].items() if v]
    for start in range(0, len(versions), 4):
        heading = "" if start else "Packages"
        say(f"{heading:<9} {', '.join(versions[start : start + 4])}")
    for device in answer["devices"]:
        size = device.get("memory_bytes")
        parts = [device["name"]]
        parts += [f"{device['cores']} cores"] if device.get("cores") else []
        parts += [f"{size / 1e9:.1f} GB"] if size else []
        parts += ["fast bfloat16" if device["fast_bf16"] else "no fast bfloat16"]
        say(f"Device    {device['device']}: {', '.join(map(str, parts))}")
    memory, runs, qt = answer["memory"], answer["runs"], answer["qt"]
    say(
        f"Memory    {memory['available_bytes'] / 1e9:.1f} of "
        f"{memory['total_bytes'] / 1e9:.1f} GB free"
    )
    say(f"Runs      {runs['folder']}, {runs['free_bytes'] / 1e9:.1f} GB free")
    screen = "a display" if qt["display"] else "no display"
    say(f"napari    {qt['napari'] or 'no'}, Qt: {qt['binding'] or 'no'}, {screen}")
    for text in answer["advice"]:
        say(f"Note      {text}")
    for text in answer["problems"]:
        say(f"PROBLEM   {text}")
    if not answer["problems"]:
        say("Everything that a job needs is here.")
