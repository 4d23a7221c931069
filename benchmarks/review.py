"""Time and memory of merging, splitting and undo in a large labels array.

Usage: python benchmarks/review.py [--mvox 500] [--edge 256]

Makes uint32 labels of that many million voxels with two touching blocks of `edge`
voxels an edge in the middle, merges them, splits them again at the face between them,
and takes both back and does them again. Prints JSON: seconds, the bytes that undo
keeps, and the memory that undo and redo take while they work.
"""

from __future__ import annotations

import argparse
import json
import time
import tracemalloc
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from napari_volseg.geometry import Box
from napari_volseg.review import Review, measure_instances, place_pieces


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mvox", type=int, default=500)
    parser.add_argument("--edge", type=int, default=256)
    options = parser.parse_args()
    review = make_review(options.mvox * 10**6, options.edge)
    figures: dict[str, object] = {
        "voxels": review.labels_ZYX.size,
        "voxels_of_each_block": options.edge**3,
    }
    edits = {
        "merge": lambda: review.merge([1, 2]),
        "split": lambda: split(review, options.edge),
    }
    for name, edit in edits.items():
        seconds = times(review, edit)
        figures[name] = {
            **seconds,
            "undo_memory_MB": peak(review.undo),
            "redo_memory_MB": peak(review.redo),
        }
    print(json.dumps(figures, indent=2))


def make_review(n_voxels: int, edge: int) -> Review:
    """Return a review of a cubic volume with two touching blocks."""
    side = round(n_voxels ** (1 / 3))
    labels_ZYX = np.zeros((side, side, side), np.uint32)
    labels_ZYX += 0  # the pages are really there
    corner = [side // 2 - edge // 2] * 2 + [side // 2 - edge]
    boxes = {}
    for label in (1, 2):
        stop = [c + edge for c in corner]
        boxes[label] = Box(tuple(corner), tuple(stop))  # type: ignore[arg-type]
        labels_ZYX[boxes[label].slices] = label
        corner[2] += edge
    rows = measure_instances(labels_ZYX, None, boxes, (30.0, 8.0, 8.0))
    empty = {name: column[:0] for name, column in rows.items()}
    review = Review(labels_ZYX, empty, (30.0, 8.0, 8.0))
    review.take_rows(rows, boxes)
    return review


def split(review: Review, edge: int) -> None:
    """Divide what the merge joined, as the dock does once it has the pieces."""
    label = int(review.labels_ZYX.max())
    box = review.box(label)
    before = review.labels_ZYX[box.slices].copy()
    pieces = np.where(before == label, 1, 0).astype(np.int32)
    pieces[:, :, edge:] *= 2
    edit = place_pieces("split", box, before, pieces, [label], review.first_free)
    review.do(edit, dict.fromkeys(edit.ids, "corrected"))


def times(review: Review, do: Callable[[], object]) -> dict[str, float]:
    """Do, undo and redo; check each and return the seconds."""
    before = checksum(review.labels_ZYX)
    seconds = {"do_s": clock(do)}
    after = checksum(review.labels_ZYX)
    assert after != before
    seconds["undo_s"] = clock(review.undo)
    assert checksum(review.labels_ZYX) == before
    seconds["redo_s"] = clock(review.redo)
    assert checksum(review.labels_ZYX) == after
    seconds["bytes_kept"] = review.history.done[-1].edit.nbytes
    return {name: round(value, 4) for name, value in seconds.items()}


def clock(do: Callable[[], object]) -> float:
    """Return how many seconds something takes."""
    start = time.perf_counter()
    do()
    return time.perf_counter() - start


def checksum(labels_ZYX: NDArray[np.uint32]) -> int:
    """Return a number that any change of the two blocks changes."""
    weights = np.arange(labels_ZYX.shape[2], dtype=np.uint64)
    return sum(int((plane.sum(0, np.uint64) * weights).sum()) for plane in labels_ZYX)


def peak(do: Callable[[], object]) -> float:
    """Return the most memory in MB that something takes while it works."""
    tracemalloc.start()
    do()
    highest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return round(highest / 2**20, 2)


if __name__ == "__main__":
    main()
