"""Show volumes in a browser with Neuroglancer, from this machine only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from napari_volseg.errors import DataError
from napari_volseg.io import open_volume
from napari_volseg.views import Shown
from napari_volseg.volume import Volume

__all__ = ["serving"]

_ADDRESS = "127.0.0.1"
_COLOURS = {"mask": "#7dd3fc", "boundary": "#fca5a5", "distance": "#86efac"}
_SHADER = """
#uicontrol invlerp normalized
#uicontrol vec3 colour color(default="{colour}")
void main() {{ emitRGB(colour * normalized()); }}
"""


@contextmanager
def serving(shown: Sequence[Shown], port: int = 0) -> Iterator[str]:
    """Serve volumes to browsers on this machine while the block runs.

    Slices are read from the files when they are looked at; no meshes are made.

    Parameters
    ----------
    port
        Port on the loopback interface; 0 takes a free one.

    Yields
    ------
    str
        The address to open. It holds a random token, so that other users of this
        machine cannot guess it.

    Raises
    ------
    DataError
        If Neuroglancer is not installed or the port is taken.
    """
    try:
        import neuroglancer
    except ImportError:
        raise DataError(
            'this view needs Neuroglancer: run "pip install '
            "'napari-volseg[neuroglancer]'\", or leave out --neuroglancer for napari"
        ) from None
    neuroglancer.set_server_bind_address(_ADDRESS, port)
    try:
        viewer = neuroglancer.Viewer()
        with viewer.txn() as state:
            for each in shown:
                _add(neuroglancer, state, each)
            state.layout = "4panel"
        yield str(viewer)
    except OSError as error:
        raise DataError(
            f"port {port} of {_ADDRESS} cannot be used ({error.strerror}): choose "
            "another with --port"
        ) from None
    finally:
        neuroglancer.stop()


def _add(neuroglancer: Any, state: Any, shown: Shown) -> None:
    volume = open_volume(shown.source)
    if shown.kind == "labels":
        data = _Part(volume, lambda block: block, _unsigned(volume.data.dtype))
        source = _local(neuroglancer, data, volume, "segmentation")
        layer = neuroglancer.SegmentationLayer(
            source=[
                neuroglancer.LayerDataSource(
                    url=source,
                    enable_default_subsources=False,  # meshes would be made here
                    subsources={"default": True},
                )
            ]
        )
        state.layers.append(name=shown.name, layer=layer)
        return
    names = list(_COLOURS) if shown.kind == "maps" else _channel_names(shown, volume)
    for channel, name in enumerate(names):
        data = _channel(volume, channel)
        layer = neuroglancer.ImageLayer(
            source=_local(neuroglancer, data, volume, "image"),
            shader=_SHADER.format(colour=_COLOURS.get(name, "white")),
            blend="additive",
        )
        state.layers.append(name=name, layer=layer, visible=shown.kind == "image")


def _channel_names(shown: Shown, volume: Volume) -> list[str]:
    n = volume.n_channels
    return [shown.name] if n == 1 else [f"{shown.name} {i}" for i in range(n)]


def _local(neuroglancer: Any, data: _Part, volume: Volume, kind: str) -> Any:
    dimensions = neuroglancer.CoordinateSpace(
        names=["z", "y", "x"], units="nm", scales=list(volume.voxel_size)
    )
    return neuroglancer.LocalVolume(data, dimensions=dimensions, volume_type=kind)


def _unsigned(dtype: DTypeLike) -> np.dtype[Any]:
    """Return the type without a sign: Neuroglancer has no signed segments."""
    return np.dtype(f"u{max(4, np.dtype(dtype).itemsize)}")


def _channel(volume: Volume, channel: int) -> _Part:
    dtype = np.dtype(volume.data.dtype)
    if dtype.kind == "b":
        dtype = np.dtype(np.uint8)
    elif dtype.kind == "f" or dtype.itemsize > 4:
        dtype = np.dtype(np.float32)
    if len(volume.data.shape) == 3:
        return _Part(volume, lambda block: block, dtype)
    return _Part(volume, lambda block: (channel, *block), dtype)


class _Part:
    """A ZYX part of a volume that is read when it is indexed."""

    def __init__(
        self,
        volume: Volume,
        key: Callable[[tuple[slice, ...]], tuple[int | slice, ...]],
        dtype: np.dtype[Any],
    ) -> None:
        self._data, self._key = volume.data, key
        self.shape = volume.shape_ZYX
        self.dtype = dtype
        self.rank = self.ndim = 3

    def __getitem__(self, block: tuple[slice, ...]) -> NDArray[Any]:
        return np.asarray(self._data[self._key(block)]).astype(self.dtype)
