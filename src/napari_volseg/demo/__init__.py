"""The main job on generated volumes: train, predict, evaluate, report.

The demo runs the same commands that a user would type, in their own processes,
and prints them first.
"""

from napari_volseg.demo.main import main

__all__ = ["main"]
