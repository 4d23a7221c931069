"""Train, predict and review instance segmentation of 3D volumes in napari."""

from importlib.metadata import version

__version__ = version("napari-volseg")
