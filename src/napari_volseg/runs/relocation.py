"""Find an image again that a job refers to, wherever its folder has gone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from napari_volseg.errors import DataError
from napari_volseg.io import content_hash, parse_source
from napari_volseg.runs.pairs import absolute_source

__all__ = ["describe_source", "relocate_image"]


def relocate_image(entry: Mapping[str, Any], folder: Path, *, what: str) -> str:
    """Return the source of an image that may have moved along with its folder.

    It is looked for where it was, at the same place relative to the folder,
    and beside the folder; the content must be what it was.

    Parameters
    ----------
    entry
        ``source``, ``relative`` and ``hash`` as `describe_source` gives them.
    folder
        The job folder that names the image.
    what
        The kind of job, for messages.
    """
    source = parse_source(entry["source"])
    candidates = [Path(source.path)]
    if entry.get("relative"):
        candidates.append((folder / entry["relative"]).resolve())
    candidates += [
        base / Path(source.path).name for base in (folder, *list(folder.parents)[:2])
    ]
    changed = None
    for path in candidates:
        found = str(replace(source, path=path))
        if path.exists():
            if content_hash(found) == entry["hash"]:
                return found
            changed = changed or path
    if changed is not None:
        raise DataError(
            f"the image {changed} has changed since this {what} was made: put the "
            "old file back, or start anew"
        )
    raise DataError(
        f"the image {source.path} of this {what} is not there any more: put it back, "
        f"or place it beside {folder}"
    )


def describe_source(source: str, folder: Path) -> dict[str, Any]:
    """Return what `relocate_image` needs to find a source again."""
    source = absolute_source(source)
    try:
        relative = os.path.relpath(parse_source(source).path, folder)
    except ValueError:  # another drive on Windows
        relative = ""
    return {
        "source": source,
        "relative": Path(relative).as_posix() if relative else "",
        "hash": content_hash(source),
    }
