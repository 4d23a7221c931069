"""What napari reads of the plugin before it runs any of it."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

pytest.importorskip("npe2")

from npe2 import PluginManifest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def manifest() -> PluginManifest:
    return PluginManifest.from_distribution("napari-volseg")


def test_the_manifest_is_valid(manifest: PluginManifest) -> None:
    manifest.validate_imports()
    assert manifest.display_name == "VolSeg"


def test_the_file_on_top_is_the_one_that_ships() -> None:
    top = ROOT / "napari.yaml"
    shipped = ROOT / "src" / "napari_volseg" / "napari.yaml"
    assert top.resolve() == shipped.resolve()


def test_every_command_leads_somewhere(manifest: PluginManifest) -> None:
    for command in manifest.contributions.commands or []:
        module, name = str(command.python_name).split(":")
        assert callable(getattr(import_module(module), name))


def test_what_the_plugin_offers(manifest: PluginManifest) -> None:
    offered = manifest.contributions
    assert [w.display_name for w in offered.widgets or []] == [
        "Train",
        "Predict",
        "Inspect",
        "Review",
        "Evaluate",
        "Check",
        "Runs",
    ]
    assert {s.key for s in offered.sample_data or []} == {"vesicles", "cells", "nuclei"}
    assert "napari/layers/segment" in offered.menus


def test_discovery_imports_nothing_heavy() -> None:
    code = (
        "import sys, npe2; npe2.PluginManifest.from_distribution('napari-volseg'); "
        "print([m for m in ('torch', 'monai', 'napari', 'numba') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_what_the_docks_import_loads_neither_torch_nor_jit_nor_labelling() -> None:
    """Parts of napari import numba by themselves, so napari is left out here."""
    code = (
        "import sys; import napari_volseg.runs, napari_volseg.models, "
        "napari_volseg.retuning, napari_volseg.sample_data, napari_volseg.io; "
        "print([m for m in ('torch', 'monai', 'numba', 'cc3d', 'edt', 'fastremap') "
        "if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
