"""The command line ``volseg``: everything the widgets do, without a screen."""

from napari_volseg.cli.main import main

__all__ = ["main"]
