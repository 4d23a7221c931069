"""Read a configuration for a command, and say what of it was left out."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from napari_volseg.config import Config, build_config, read_settings

__all__ = ["load_settings"]

_SHOWN = 6


def load_settings(name: str, overrides: Sequence[str] = ()) -> Config:
    """Return the configuration of a preset or YAML file with settings changed.

    Keys of a PyTorch Connectomics file that have no counterpart are named on
    standard error, once, because nothing is left out in silence.

    Raises
    ------
    DataError
        As `napari_volseg.config.load_config`.
    """
    tree, left_out = read_settings(name, overrides)
    config = build_config(tree, where=name)
    if left_out:
        shown = ", ".join(left_out[:_SHOWN])
        more = len(left_out) - _SHOWN
        shown += f" and {more} more" if more > 0 else ""
        sys.stderr.write(
            f"volseg: {name}: {len(left_out)} keys of PyTorch Connectomics have no "
            f"counterpart and are left out: {shown}; 'volseg config {name} --left-out' "
            "says why\n"
        )
    return config
