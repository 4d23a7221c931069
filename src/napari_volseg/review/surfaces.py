"""Surfaces of instances as triangles, and files of them."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from napari_volseg.io import atomic_path
from napari_volseg.volume import VoxelSize

__all__ = ["surface", "write_obj", "write_ply"]

Vertices = NDArray[np.float32]
Faces = NDArray[np.int32]


def surface(
    object_ZYX: NDArray[np.bool_], start: NDArray[np.float64], voxel_size: VoxelSize
) -> tuple[Vertices, Faces]:
    """Return the closed surface of an object.

    Parameters
    ----------
    object_ZYX
        The object, in a box.
    start
        First voxel of the box in the volume.
    voxel_size
        Edge lengths (z, y, x) in nm.

    Returns
    -------
    vertices
        (N, 3) as x, y, z in nm; the middle of voxel 0 lies at 0.
    faces
        (M, 3) indices of vertices, counter-clockwise as seen from outside.
    """
    from skimage.measure import marching_cubes

    padded = np.pad(object_ZYX, 1).astype(np.float32)
    vertices, faces, _, _ = marching_cubes(  # type: ignore[no-untyped-call]
        padded, 0.5, gradient_direction="descent"
    )
    places = (vertices - 1 + np.asarray(start)) * np.array(voxel_size)
    # The order x, y, z mirrors space, which turns the faces over.
    return places[:, ::-1].astype(np.float32), faces.astype(np.int32)


def write_obj(
    path: str | os.PathLike[str], meshes: dict[int, tuple[Vertices, Faces]]
) -> None:
    """Write surfaces as Wavefront OBJ, one object for each instance.

    Raises
    ------
    DataError
        If the file cannot be written.
    """
    with atomic_path(path) as temporary, temporary.open("w", encoding="ascii") as file:
        file.write("# x y z in nm\n")
        offset = 1
        for label, (vertices, faces) in meshes.items():
            file.write(f"o instance-{label}\n")
            np.savetxt(file, vertices, "v %.6g %.6g %.6g")
            np.savetxt(file, faces + offset, "f %d %d %d")
            offset += len(vertices)


def write_ply(
    path: str | os.PathLike[str], meshes: dict[int, tuple[Vertices, Faces]]
) -> None:
    """Write surfaces as one binary PLY, with the id of the instance at each face.

    Raises
    ------
    DataError
        If the file cannot be written.
    """
    name, type_ = _type_of_ids(max(meshes, default=0))
    n_vertices = sum(len(v) for v, _ in meshes.values())
    n_faces = sum(len(f) for _, f in meshes.values())
    header = (
        "ply\nformat binary_little_endian 1.0\ncomment x y z in nm\n"
        f"element vertex {n_vertices}\n"
        "property float x\nproperty float y\nproperty float z\n"
        f"element face {n_faces}\n"
        "property list uchar int vertex_indices\n"
        f"property {name} instance\nend_header\n"
    )
    row = np.dtype([("n", "u1"), ("corners", "<i4", 3), ("instance", type_)])
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(header.encode("ascii"))
        for vertices, _ in meshes.values():
            file.write(vertices.astype("<f4").tobytes())
        offset = 0
        for label, (vertices, faces) in meshes.items():
            rows = np.zeros(len(faces), row)
            rows["n"], rows["corners"], rows["instance"] = 3, faces + offset, label
            file.write(rows.tobytes())
            offset += len(vertices)


def _type_of_ids(top: int) -> tuple[str, str]:
    """Return a type of PLY that holds an id, and its name for numpy."""
    if top < 2**31:
        return "int", "<i4"
    # PLY has no integers of 64 bits.
    return ("uint", "<u4") if top < 2**32 else ("double", "<f8")
