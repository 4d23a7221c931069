"""Sources: ``path[:dataset][slices]`` as people type them."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

from napari_volseg.errors import DataError
from napari_volseg.io.failures import refusing
from napari_volseg.io.home import expand_home

__all__ = ["Source", "check_exists", "content_hash", "expand_sources", "parse_source"]

Index = tuple[slice | int, ...]

_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_NUMBER = re.compile(r"[+-]?\d{1,18}")
_MIB = 2**20
_HASH_WHOLE = 256 * _MIB
_SAMPLES = 64


@dataclass(frozen=True, slots=True)
class Source:
    """A volume in a file; `str` gives the text back."""

    path: Path
    dataset: str | None = None
    """Dataset of an HDF5 or Zarr file, series number of a TIFF."""
    index: Index | None = None
    """Part of the stored array, in the order of the file's axes."""

    def __str__(self) -> str:
        dataset = "" if self.dataset is None else f":{self.dataset}"
        if self.index is None:
            return f"{self.path}{dataset}"
        return f"{self.path}{dataset}[{','.join(map(_item_text, self.index))}]"

    @property
    def name(self) -> str:
        """The source without its folder, for messages."""
        return str(replace(self, path=Path(self.path.name or self.path)))


def parse_source(text: str) -> Source:
    r"""Return the parts of ``path[:dataset][slices]``.

    The dataset begins after the last colon that is not a Windows drive's; a
    file that exists under the whole text is taken as it is, colons and all, and
    so is a glob below a folder that exists.

    Raises
    ------
    DataError
        For an empty path or dataset, a web address or a malformed index.

    Examples
    --------
    >>> parse_source("em.h5:raw[0:100,:,:]").dataset
    'raw'
    """
    text = text.strip()
    if not text:
        raise DataError("the source is empty: give a path such as em.h5:raw[0:100]")
    if _URL.match(text):
        raise DataError(
            f"{text} is a web address: download it first and give the local path"
        )
    if _exists(text):
        return Source(Path(text))
    head, index = _split_index(text)
    colon = head.rfind(":")
    is_drive = colon == 1 and _DRIVE.match(head)
    if colon < 0 or is_drive or _exists(head) or _is_in_folder(colon, head):
        return Source(Path(head), None, index)
    path, dataset = head[:colon], head[colon + 1 :].strip()
    if not path.strip():
        raise DataError(f"the source {text} names no file before the colon")
    if not dataset:
        raise DataError(f"the source {text} names no dataset after the colon")
    return Source(Path(path), dataset, index)


def expand_sources(sources: Iterable[str]) -> list[str]:
    """Replace each glob by the sources it matches, in natural order (2 before 10).

    The order of the given texts is kept, so that lists of images and labels
    still pair up; dataset and index are passed on to every match.

    Raises
    ------
    DataError
        For a glob that matches nothing.
    """
    return [str(found) for text in sources for found in _expand(parse_source(text))]


def _expand(source: Source) -> list[Source]:
    pattern = os.path.expanduser(source.path)
    if not glob.has_magic(pattern) or os.path.exists(pattern):
        return [source]
    matches = sorted(glob.glob(pattern, recursive=True), key=_natural)
    if not matches:
        folder, name = os.path.split(pattern)
        raise DataError(
            f"nothing in the folder {folder or os.curdir} matches {name}: "
            "check the folder and the pattern"
        )
    return [replace(source, path=Path(match)) for match in matches]


def _exists(path: str) -> bool:
    return os.path.exists(os.path.expanduser(path))


def _is_in_folder(colon: int, head: str) -> bool:
    """Return whether a colon belongs to the folder, which exists, of a glob."""
    folder = os.path.dirname(head)
    if colon >= len(folder) or not glob.has_magic(head) or "\0" in head:
        return False
    return any(glob.iglob(os.path.expanduser(folder), recursive=True))


def _natural(text: str) -> list[str | int]:
    return [int(t) if i % 2 else t for i, t in enumerate(re.split(r"(\d+)", text))]


def _split_index(text: str) -> tuple[str, Index | None]:
    start = text.rfind("[")
    inner = text[start + 1 : -1].replace(" ", "")
    if start < 1 or not text.endswith("]") or not set(inner) <= set("0123456789+-:,"):
        return text, None
    try:
        return text[:start], tuple(map(_parse_item, inner.removesuffix(",").split(",")))
    except ValueError:
        if re.fullmatch(r"\d-\d", inner):  # a set of characters in a glob
            return text, None
        raise DataError(
            f"the index [{inner}] of {text} is not valid: write for instance "
            "[0:100,:,:] or [0]"
        ) from None


def _parse_item(item: str) -> slice | int:
    numbers = [_parse_number(part) for part in item.split(":")]
    if len(numbers) == 1 and numbers[0] is not None:
        return numbers[0]
    if len(numbers) not in (2, 3) or numbers[2:] == [0]:
        raise ValueError(item)
    return slice(*numbers)


def _parse_number(text: str) -> int | None:
    if text and not _NUMBER.fullmatch(text):
        raise ValueError(text)
    return int(text) if text else None


def _item_text(item: slice | int) -> str:
    if isinstance(item, int):
        return str(item)
    ends = [item.start, item.stop, *([] if item.step is None else [item.step])]
    return ":".join("" if end is None else str(end) for end in ends)


def check_exists(path: Path) -> Path:
    """Return the path with ``~`` expanded.

    Raises
    ------
    DataError
        If it is neither a file nor a folder: missing, a pipe, a device.
    """
    path = expand_home(path)
    with refusing(str(path), "check the path"):
        if not (path.is_file() or path.is_dir()):
            if os.path.lexists(path):
                raise DataError(f"{path} is not a regular file or folder: give a file")
            raise DataError(f"{path} does not exist: {_suggestion(path)}")
    return path


def _suggestion(path: Path) -> str:
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}"
    siblings = [entry.name for entry in islice(path.parent.iterdir(), 5000)]
    close = get_close_matches(path.name, siblings, n=1)
    return f"did you mean {close[0]}?" if close else "check the path"


def content_hash(source: str) -> str:
    """Return a hash of what the file of a source contains.

    Neither the name, the time nor the dataset or index of the source count.
    Folders (Zarr) are hashed file by file.

    Returns
    -------
    str
        ``sha256:…`` of everything; above 256 MiB ``sha256-sampled:…`` of the
        size and 64 evenly spaced blocks of one MiB.
    """
    path = check_exists(parse_source(source).path)
    digest = hashlib.sha256()
    with refusing(str(path)):
        files = list(_files(path))
        total = sum(size for _, size in files)
        if path.is_dir():
            for file, size in files:
                digest.update(f"{file.relative_to(path).as_posix()}\0{size}\0".encode())
        if total > _HASH_WHOLE:
            digest.update(str(total).encode())
        for block in _blocks(files) if total <= _HASH_WHOLE else _sample(files, total):
            digest.update(block)
    kind = "sha256" if total <= _HASH_WHOLE else "sha256-sampled"
    return f"{kind}:{digest.hexdigest()}"


def _files(path: Path) -> Iterator[tuple[Path, int]]:
    if path.is_file():
        yield path, path.stat().st_size
        return
    for folder, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            file = Path(folder, name)
            if file.is_file() and not file.is_symlink():
                yield file, file.stat().st_size


def _blocks(files: Sequence[tuple[Path, int]]) -> Iterator[bytes]:
    for file, _ in files:
        with file.open("rb") as stream:
            while block := stream.read(_MIB):
                yield block


def _sample(files: Sequence[tuple[Path, int]], total: int) -> Iterator[bytes]:
    """Yield evenly spaced blocks of the files laid end to end."""
    offsets = [round((total - _MIB) * i / (_SAMPLES - 1)) for i in range(_SAMPLES)]
    begin = 0
    for file, size in files:
        inside = [o - begin for o in offsets if begin <= o < begin + size]
        if inside:
            with file.open("rb") as stream:
                for offset in inside:
                    stream.seek(offset)
                    yield stream.read(_MIB)
        begin += size
