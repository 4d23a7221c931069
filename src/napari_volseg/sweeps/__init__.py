"""Search for good settings: every trial is a run, a bad one is stopped early."""

from napari_volseg.sweeps.folder import (
    Sweep,
    TrialRow,
    create_sweep,
    is_sweep,
    read_sweep,
)
from napari_volseg.sweeps.search import SearchResult, search
from napari_volseg.sweeps.space import Range, parse_space, read_space

__all__ = [
    "Range",
    "SearchResult",
    "Sweep",
    "TrialRow",
    "create_sweep",
    "is_sweep",
    "parse_space",
    "read_space",
    "read_sweep",
    "search",
]
