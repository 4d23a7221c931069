"""What must not be imported, asked in fresh processes."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "monai", "napari", "qtpy", "numpy", "zarr", "h5py", "numba"}
TORCH = {"torch", "monai", "napari", "qtpy", "magicgui"}


def _imported(code: str) -> set[str]:
    script = (
        f"import sys\n{code}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


def test_the_package_itself_imports_nothing_heavy():
    assert not _imported("import napari_volseg") & HEAVY


@pytest.mark.parametrize(
    "module",
    ["runs", "retuning", "cli", "models", "io", "config", "events", "sample_data"],
)
def test_the_common_ground_does_not_import_torch(module):
    assert not _imported(f"import napari_volseg.{module}") & TORCH


def test_our_own_processes_start_without_what_other_commands_need():
    code = "from napari_volseg.cli.main import build_parser as build; build(['hidden'])"
    assert not _imported(code) & ({"zarr", "scipy", "numba", "pydantic"} | TORCH)


def test_reading_a_run_does_not_import_torch(tmp_path):
    code = (
        "from pathlib import Path\n"
        "from napari_volseg import cli\n"
        f"cli.main(['runs', '--runs', {str(tmp_path)!r}, '--json'])\n"
        "cli.main(['presets', '--json'])"
    )
    assert not _imported(code) & TORCH
