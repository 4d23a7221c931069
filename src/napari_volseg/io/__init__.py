"""Read volumes from hostile files safely; write files that appear whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_volseg.io.atomic import (
    atomic_path,
    flush_folder,
    write_json,
    write_text,
    writing,
)
from napari_volseg.io.home import expand_home
from napari_volseg.io.kinds import kind_of_file
from napari_volseg.io.lazy import LazyArray
from napari_volseg.io.reading import (
    list_datasets,
    open_labels,
    open_mask,
    open_volume,
    read_labels,
    read_mask,
)
from napari_volseg.io.sources import (
    Source,
    content_hash,
    expand_sources,
    parse_source,
)

if TYPE_CHECKING:
    from napari_volseg.io.hdf5_writing import write_hdf5
    from napari_volseg.io.zarr_writing import (
        create_zarr,
        flush_shards,
        reopen_zarr,
        write_volume_zarr,
    )

__all__ = [
    "LazyArray",
    "Source",
    "atomic_path",
    "content_hash",
    "create_zarr",
    "expand_home",
    "expand_sources",
    "flush_folder",
    "flush_shards",
    "kind_of_file",
    "list_datasets",
    "open_labels",
    "open_mask",
    "open_volume",
    "parse_source",
    "read_labels",
    "read_mask",
    "reopen_zarr",
    "write_hdf5",
    "write_json",
    "write_text",
    "write_volume_zarr",
    "writing",
]


def __getattr__(name: str) -> Any:
    """Import the writers on use, because h5py and Zarr take long to import."""
    if name == "write_hdf5":
        from napari_volseg.io.hdf5_writing import write_hdf5

        return write_hdf5
    if name in ("create_zarr", "flush_shards", "reopen_zarr", "write_volume_zarr"):
        from napari_volseg.io import zarr_writing

        return getattr(zarr_writing, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
