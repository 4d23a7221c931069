"""Look through a checkpoint before PyTorch opens it."""

from __future__ import annotations

import stat
import struct
import zipfile
from pathlib import Path

from napari_volseg.errors import DataError
from napari_volseg.io.kinds import kind_of_file
from napari_volseg.io.pickle_scan import check_pickle

__all__ = ["check_torch_archive"]

_MAX_MEMBERS = 20_000
_MAX_PICKLE_BYTES = 8 * 2**20
_END = b"PK\x05\x06"
_END_BYTES = 22
_MAX_COMMENT = 2**16


def check_torch_archive(path: Path) -> None:
    """Refuse a file that is not a plain archive of tensors as PyTorch writes it.

    Nothing is unpacked or unpickled. What passes holds tensors and plain values
    only, in about as much memory as the file is large.

    Raises
    ------
    DataError
        If the file is something else, is cut off, unpacks to more than it
        holds, would run code, or cannot be read.
    """
    if not path.is_file():
        raise DataError(
            f"{path} is {_what_else(path)}: choose a model.safetensors or a checkpoint "
            "in a run's checkpoints folder"
        )
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(32)
            file.seek(max(0, size - _END_BYTES - _MAX_COMMENT))
            end = file.read()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    _check_ends(path, start, end, size)
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(path, archive, size)
            (pickled,) = (n for n in archive.namelist() if n.endswith("/data.pkl"))
            data = archive.read(pickled)
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    except (
        zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError,
        struct.error, OverflowError,
    ) as error:  # fmt: skip
        raise DataError(f"{path} is damaged: {error}; copy it again") from None
    check_pickle(data, str(path))


def _what_else(path: Path) -> str:
    if path.is_dir():
        return "a folder"
    return "not a file" if path.exists() else "not there"


def _check_ends(path: Path, start: bytes, end: bytes, size: int) -> None:
    if size == 0:
        raise DataError(f"{path} is incomplete: it is empty; copy it again")
    if not start.startswith(b"PK"):
        kind = kind_of_file(start) or "damaged, or not a checkpoint"
        raise DataError(
            f"{path} is {kind}: choose the model.safetensors or a checkpoint of a run"
        )
    position = end.rfind(_END)
    if position < 0 or len(end) - position < _END_BYTES:
        raise DataError(
            f"{path} is incomplete: it is cut off at {size} bytes; copy it again"
        )
    # Before the list is read, because reading a million entries takes long.
    (n_members,) = struct.unpack_from("<H", end, position + 10)
    if n_members > _MAX_MEMBERS:
        raise DataError(
            f"{path} lists more than {_MAX_MEMBERS} arrays: it is no checkpoint of a "
            "volseg run"
        )


def _check_members(path: Path, archive: zipfile.ZipFile, size: int) -> None:
    members = archive.infolist()
    names = [member.filename for member in members]
    leaves = {name.partition("/")[2] for name in names}
    if len(members) > _MAX_MEMBERS:
        raise DataError(f"{path} lists {len(members)} arrays: it is no checkpoint")
    if "constants.pkl" in leaves or any(leaf.startswith("code/") for leaf in leaves):
        raise DataError(
            f"{path} is a TorchScript program, not weights: choose the "
            "model.safetensors or a checkpoint of a run"
        )
    if sum(name.endswith("/data.pkl") for name in names) != 1:
        raise DataError(
            f"{path} is a zip file but not a checkpoint: choose the model.safetensors "
            "or a checkpoint of a run"
        )
    distinct = {name.casefold() for name in names}
    tops = {name.partition("/")[0] for name in names}
    if len(distinct) < len(names) or len(tops) > 1 or any(map(_leads_away, members)):
        raise DataError(f"{path} is damaged: its members are not those of a checkpoint")
    unpacked = sum(member.file_size for member in members)
    packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
    if packed or unpacked > size:
        raise DataError(
            f"{path} would unpack from {size} to {unpacked} bytes: PyTorch does not "
            "write such checkpoints, so it is refused"
        )
    pickled = next(member for member in members if member.filename.endswith("data.pkl"))
    if pickled.file_size > _MAX_PICKLE_BYTES:
        raise DataError(f"{path} lists far too many arrays: it is no checkpoint")


def _leads_away(member: zipfile.ZipInfo) -> bool:
    """Return whether unpacking a member could write or read outside its folder."""
    name = member.filename
    return (
        stat.S_ISLNK(member.external_attr >> 16)
        or any(mark in name for mark in ("\\", ":"))
        or not set(name.split("/")).isdisjoint({"", ".", ".."})
    )
