"""The checkpoints of a run: everything that is needed to go on exactly.

A checkpoint is written to a temporary file, flushed, read back, compared by hash and
only then takes its name; ``checkpoints/index.json`` lists the hashes, so a damaged
file is noticed and the one before it used. Old ones go when the new one is listed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from napari_volseg.checkpoint import read_state
from napari_volseg.errors import DataError
from napari_volseg.io import atomic_path, write_json
from napari_volseg.io.torch_archive import check_torch_archive

__all__ = ["iter_checkpoints", "load_checkpoint", "save_checkpoint"]

_INDEX = "index.json"


def save_checkpoint(
    folder: Path, state: Mapping[str, Any], step: int, *, best: bool, keep: int
) -> Path:
    """Write ``step-NNNNNN.ckpt``, point ``last`` (and ``best``) to it, tidy up.

    Parameters
    ----------
    folder
        The ``checkpoints`` folder of a run.
    state
        Tensors and plain values only.
    keep
        Numbered checkpoints to keep.

    Raises
    ------
    DataError, OSError
        If the disk refuses; the checkpoints before this one are as they were.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"step-{step:06d}.ckpt"
    digest = _write(path, state)
    entries = [e for e in _read_index(folder) if e["file"] != path.name]
    entries = [*entries, {"file": path.name, "step": step, "sha256": digest}][-keep:]
    write_json(folder / _INDEX, entries)
    _link(path, folder / "last.ckpt")
    if best:
        _link(path, folder / "best.ckpt")
    kept = {entry["file"] for entry in entries}
    for old in folder.glob("step-*.ckpt"):
        if old.name not in kept:
            old.unlink(missing_ok=True)
    return path


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Return the newest undamaged state of a run; None when there is none."""
    return next(iter_checkpoints(folder), None)


def iter_checkpoints(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the undamaged states of a run, the newest first.

    Files that the index does not list, because it is damaged or a crash came before
    it was written, come last and are trusted by their checksums within.
    """
    listed = _read_index(folder)
    for entry in reversed(listed):
        path = folder / entry["file"]
        try:
            data = path.read_bytes()
        except OSError:
            continue
        if hashlib.sha256(data).hexdigest() == entry["sha256"]:
            check_torch_archive(path)
            yield read_state(io.BytesIO(data), path)
    known = {entry["file"] for entry in listed}
    for path in sorted(folder.glob("step-*.ckpt"), reverse=True):
        if path.name not in known:
            state = _read_unlisted(path)
            if state is not None:
                yield state


def _write(path: Path, state: Mapping[str, Any]) -> str:
    """Write a state and return its hash, once the file was read back the same."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())
        with temporary.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise OSError(f"{path} reads back differently from what was written")
    return digest


def _read_unlisted(path: Path) -> dict[str, Any] | None:
    try:
        check_torch_archive(path)
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return None
        return read_state(io.BytesIO(path.read_bytes()), path)
    except (DataError, OSError, zipfile.BadZipFile):
        return None


def _read_index(folder: Path) -> list[dict[str, Any]]:
    """Return the listed checkpoints, oldest first; none if the list is damaged."""
    try:
        entries = json.loads((folder / _INDEX).read_text())
        return [
            {"file": Path(e["file"]).name, "step": e["step"], "sha256": e["sha256"]}
            for e in entries
        ]
    except (OSError, ValueError, TypeError, KeyError):
        return []


def _link(path: Path, name: Path) -> None:
    """Give a checkpoint a second name, without a copy where the disk can do that."""
    temporary = name.with_name(f".{name.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        try:
            os.link(path, temporary)
        except OSError:
            shutil.copyfile(path, temporary)
        os.replace(temporary, name)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
