"""What a file is, told from its first bytes when its name says something else."""

from __future__ import annotations

__all__ = ["kind_of_file"]

_STARTS = (
    (b"version https://git-lfs", "a Git LFS pointer, so fetch the file itself"),
    (b"\x89HDF", "an HDF5 file"),
    (b"PK", "a PyTorch or zip file"),
    (b"\x1f\x8b", "a gzip file, so unpack it first"),
    (b"7z\xbc\xaf", "a 7-Zip file, so unpack it first"),
    (b"II*\0", "a TIFF file"),
    (b"MM\0*", "a TIFF file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x80", "an old pickle, and loading a pickle can run any code"),
)


def kind_of_file(start: bytes) -> str | None:
    """Return in words what begins with these bytes; None when nothing is known.

    Parameters
    ----------
    start
        The first 32 bytes of the file, fewer of a shorter one.
    """
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "a web page, so the download went wrong"
    if start[8:9] == b"{" and 0 < int.from_bytes(start[:8], "little") < 2**32:
        return "a safetensors file"
    return next((kind for mark, kind in _STARTS if start.startswith(mark)), None)
