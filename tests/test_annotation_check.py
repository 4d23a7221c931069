"""What a check finds in hand-made volumes, and what its fixes do."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_volseg.annotation_check import (
    Finding,
    check_annotation,
    check_labels,
    fix_labels,
    sort_findings,
    summary_words,
)
from napari_volseg.annotation_check.reminder import with_reminder
from napari_volseg.errors import DataError
from napari_volseg.events import Event, Finished, Notice, Progress, Started
from napari_volseg.sample_data import make_sample
from napari_volseg.volume import LabelledVolume, Volume

Labels = NDArray[np.int32]


@pytest.fixture
def blocks() -> Labels:
    """Four blocks of 6 × 10 × 10 voxels, none at a face."""
    labels = np.zeros((12, 40, 40), np.int32)
    for i, (y, x) in enumerate([(4, 4), (4, 24), (24, 4), (24, 24)], start=1):
        labels[3:9, y : y + 10, x : x + 10] = i
    return labels


def kinds(findings: list[Finding]) -> list[str]:
    return [finding.kind for finding in findings]


def test_nothing_is_wrong_with_plain_blocks(blocks: Labels) -> None:
    assert check_labels(blocks) == []
    assert summary_words([]) == "nothing to mend"


def split(labels: Labels) -> tuple[str, int, int]:
    labels[3:9, 26:32, 15:17] = 1
    return "split", 1, 72


def fragment(labels: Labels) -> tuple[str, int, int]:
    labels[10, 20, 20:23] = 2
    return "fragment", 2, 3


def fragment_inside_another(labels: Labels) -> tuple[str, int, int]:
    labels[5, 28, 28:32] = 2
    return "fragment", 2, 4


def tiny_object(labels: Labels) -> tuple[str, int, int]:
    labels[10, 20, 20:23] = 9
    return "fragment", 9, 3


def hole(labels: Labels) -> tuple[str, int, int]:
    labels[5:7, 8, 8] = 0
    return "hole", 1, 2


def gap(labels: Labels) -> tuple[str, int, int]:
    labels[3:9, 4:14, 14:24] = 2
    labels[5, 8, 14] = 0
    return "gap", 2, 1


def missing(labels: Labels) -> tuple[str, int, int]:
    labels[5, 24:34, 24:34] = 0
    return "missing", 4, 100


DEFECTS = [split, fragment, fragment_inside_another, tiny_object, hole, gap, missing]


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_found_once_where_it_is(
    blocks: Labels, defect: Callable[[Labels], tuple[str, int, int]]
) -> None:
    kind, label, size = defect(blocks)
    (finding,) = check_labels(blocks)
    assert (finding.kind, finding.severity, finding.label, finding.size) == (
        kind,
        "warning",
        label,
        size,
    )
    inside = blocks[finding.position]
    assert inside == (label if kind in ("split", "fragment") else 0)
    assert finding.fix


@pytest.mark.parametrize("defect", DEFECTS)
def test_its_fix_leaves_nothing_to_mend_and_the_labels_as_they_were(
    blocks: Labels, defect: Callable[[Labels], tuple[str, int, int]]
) -> None:
    defect(blocks)
    before = blocks.copy()
    mended, n_fixed = fix_labels(blocks, None, check_labels(blocks))
    assert n_fixed == 1
    assert check_labels(mended) == []
    assert (blocks == before).all()
    assert mended.dtype == blocks.dtype


def test_a_fix_changes_its_piece_only(blocks: Labels) -> None:
    split(blocks)
    hole(blocks)
    findings = [f for f in check_labels(blocks) if f.kind == "split"]
    mended, _ = fix_labels(blocks, None, findings)
    changed = mended != blocks
    assert changed.sum() == 72
    assert set(np.unique(mended[changed])) == {5}


def test_a_new_id_does_not_overflow_its_type(blocks: Labels) -> None:
    split(blocks)
    blocks[blocks == 4] = 255
    small = blocks.astype(np.uint8)
    mended, _ = fix_labels(small, None, check_labels(small))
    assert mended.max() == 256


def test_findings_of_other_labels_are_refused(blocks: Labels) -> None:
    fragment(blocks)
    findings = check_labels(blocks)
    blocks[10, 20, 20:23] = 0
    with pytest.raises(DataError, match="check them again"):
        fix_labels(blocks, None, findings)


def test_pieces_that_may_be_joined_outside_only_inform(blocks: Labels) -> None:
    blocks[:3, 4:14, 4:14] = 1  # reaches the first slice
    blocks[8:12, 4:14, 14:20] = 1
    blocks[8, 4:14, 14] = 0
    blocks[:, :, 14] = 0
    found = check_labels(blocks)
    assert [f.severity for f in found if f.kind == "split"] == ["info"]
    assert [f.label for f in found if f.kind == "border"] == [1]
    assert summary_words(found) == "nothing to mend"


def test_slices_between_painted_ones_separate_nothing(blocks: Labels) -> None:
    annotated = np.zeros(blocks.shape, np.bool_)
    annotated[[4, 7]] = True
    found = check_labels(np.where(annotated, blocks, 0), annotated)
    assert [f for f in found if f.severity != "info"] == []
    assert "may be joined" in found[0].message


def test_what_is_not_annotated_is_not_checked(blocks: Labels) -> None:
    annotated = np.ones(blocks.shape, np.bool_)
    annotated[10] = False
    fragment(blocks)
    assert check_labels(blocks, annotated) == []


def test_membranes_left_unlabelled_are_said_once(rng: np.random.Generator) -> None:
    labels = np.zeros((9, 30, 30), np.int32)
    labels[...] = 1 + (np.arange(30) // 15)
    holes = np.zeros(labels.shape, bool)
    holes[1:-1:2, 1:-1:2, 14] = True
    labels[holes] = 0
    gaps = [f for f in check_labels(labels) if f.kind == "gap"]
    assert len(gaps) == 1
    assert gaps[0].severity == "info"
    assert gaps[0].size == holes.sum()


def textured(shape: tuple[int, int, int] = (10, 96, 96), seed: int = 0) -> NDArray[Any]:
    """Smooth structures that change slowly from slice to slice."""
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(seed).normal(size=shape)
    smooth = gaussian_filter(noise, (2, 3, 3))
    smooth -= smooth.min()
    return (smooth / smooth.max() * 200 + 20).astype(np.uint8)


def image_findings(image: NDArray[Any]) -> list[Finding]:
    return check_annotation(Volume(image), np.zeros(image.shape[-3:], np.int32))


def test_good_slices_are_left_alone() -> None:
    assert image_findings(textured()) == []


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("duplicate", "slice 5 repeats slice 4"),
        ("blank", "slice 5 has one value only"),
        ("saturated", "has the highest value"),
        ("shifted", r"slice 5 lies \+7 pixels in y and -4 in x off slice 4"),
    ],
)
def test_bad_slices_are_named(kind: str, words: str) -> None:
    image = textured()
    if kind == "duplicate":
        image[5] = image[4]
    elif kind == "blank":
        image[5] = 0
    elif kind == "saturated":
        image[5, :60] = 255
    else:
        image[5:] = np.roll(image[5:], (7, -4), axis=(1, 2))
    found = image_findings(image)
    assert kinds(found) == [kind]
    assert found[0].position[0] == 5

    assert re.search(words, found[0].message)


def test_channels_are_read_too() -> None:
    image = np.stack([textured(), textured(seed=1)])
    image[0, 5] = image[0, 4]
    assert kinds(image_findings(image)) == ["duplicate"]


@pytest.fixture(scope="module")
def sample() -> LabelledVolume:
    return make_sample("vesicles", shape=(16, 128, 128), voxel_size=(30.0, 8.0, 8.0))


def test_labels_in_place_are_not_called_misaligned(sample: LabelledVolume) -> None:
    found = check_annotation(sample.image, sample.labels_ZYX)
    assert "misaligned" not in kinds(found)


def test_labels_beside_their_objects_are_an_error(sample: LabelledVolume) -> None:
    image = Volume(np.roll(np.asarray(sample.image.data), (9, -8), axis=(-2, -1)))
    (finding,) = [
        f for f in check_annotation(image, sample.labels_ZYX) if f.kind == "misaligned"
    ]
    assert finding.severity == "error"
    assert "+9 pixels in y and -8 in x" in finding.message


def test_other_shapes_are_an_error_and_the_labels_are_checked_still(
    blocks: Labels,
) -> None:
    fragment(blocks)
    found = check_annotation(Volume(np.zeros((12, 40, 41), np.uint8)), blocks)
    assert kinds(found) == ["shape", "fragment"]
    assert "(12, 40, 41)" in found[0].message


def test_empty_labels_and_flat_volumes_are_checked() -> None:
    assert check_labels(np.zeros((4, 8, 8), np.int32)) == []
    flat = np.zeros((1, 40, 40), np.int32)
    flat[0, 5:15, 5:15] = 1
    assert check_labels(flat) == []
    assert image_findings(textured((1, 64, 64))) == []


def test_the_serious_come_first(blocks: Labels) -> None:
    for defect in (hole, fragment, split):
        defect(blocks)
    found = check_labels(blocks)
    assert kinds(found) == ["split", "fragment", "hole"]
    assert sort_findings(found[::-1]) == found
    assert (
        summary_words(found)
        == "1 id in two pieces, 1 tiny fragment, 1 hole in an object"
    )


def test_nothing_given_is_written(blocks: Labels) -> None:
    split(blocks)
    image = textured(blocks.shape)  # type: ignore[arg-type]
    for array in (blocks, image):
        array.flags.writeable = False
    assert kinds(check_annotation(Volume(image), blocks)) == ["split"]


def with_labels(labels: Labels) -> LabelledVolume:
    return LabelledVolume(Volume(np.zeros(labels.shape, np.uint8)), labels)


def test_a_training_is_told_once_what_to_look_at(blocks: Labels) -> None:
    fragment(blocks)
    told = threading.Event()
    closed: list[bool] = []

    def training() -> Iterator[Event]:
        try:
            yield Started("train", "cpu", 10)
            while not told.is_set():
                yield Progress(1, 10, 0.0)
            yield Finished("completed", "done")
        finally:
            closed.append(True)

    notices = []
    for event in with_reminder(training(), [with_labels(blocks)]):
        if isinstance(event, Notice):
            notices.append(event.message)
            told.set()
    assert len(notices) == 1
    assert "1 tiny fragment" in notices[0]
    assert closed == [True]


def test_good_labels_are_not_mentioned(blocks: Labels) -> None:
    events: list[Event] = [Started("train", "cpu", 10)] * 3
    assert list(with_reminder(iter(events), [with_labels(blocks)])) == events
