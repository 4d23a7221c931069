import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import metrics as skimage_metrics

from napari_volseg.errors import DataError
from napari_volseg.metrics import evaluate, evaluate_blocks
from napari_volseg.sample_data import make_sample

PERFECT = {
    "adapted_rand_error": 0,
    "voi_split": 0,
    "voi_merge": 0,
    **dict.fromkeys(("f1_50", "precision_50", "recall_50", "ap", "ap_50", "pq_50"), 1),
}
COUNTS = ("n_true", "n_pred")


def line(*runs: tuple[int, int]) -> np.ndarray:
    """Runs of (id, length) along x."""
    ids, lengths = zip(*runs, strict=True)
    return np.repeat(ids, lengths).reshape(1, 1, -1)


@st.composite
def labellings(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = tuple(rng.integers(1, 7, 3))
    truth = rng.integers(0, draw(st.integers(2, 6)), shape)
    other = rng.integers(0, 7, shape)
    return np.where(rng.random(shape) < 0.6, truth, other), truth


def test_the_truth_is_perfect():
    truth = make_sample("cells", (12, 48, 48)).labels_ZYX

    scores = evaluate(truth, truth)

    n = float(truth.max())
    assert scores == pytest.approx({**PERFECT, "n_true": n, "n_pred": n})


def test_missed_false_and_matched_instances_are_counted():
    truth = line((1, 10), (0, 5), (2, 10), (0, 5), (3, 10), (0, 10))
    pred = line((5, 10), (0, 5), (7, 8), (0, 17), (9, 5), (0, 5))

    scores = evaluate(pred, truth)

    # 1 is met exactly, 2 with IoU 0.8, 3 is missed, one prediction is false.
    assert scores["n_true"] == scores["n_pred"] == 3
    assert scores["f1_50"] == scores["precision_50"] == pytest.approx(2 / 3)
    assert scores["recall_50"] == pytest.approx(2 / 3)
    assert scores["ap_50"] == pytest.approx(2 / 4)
    assert scores["pq_50"] == pytest.approx(1.8 / 3)
    # IoU 0.8 counts for the seven thresholds 0.5 … 0.8.
    assert scores["ap"] == pytest.approx((7 * 2 / 4 + 3 * 1 / 5) / 10)


@pytest.mark.parametrize(("shared", "n_thresholds"), [(10, 1), (11, 2), (19, 10)])
def test_an_iou_that_equals_a_threshold_counts(shared, n_thresholds):
    truth = line((1, 20), (0, 4))
    pred = line((1, shared), (0, 24 - shared))

    assert evaluate(pred, truth)["ap"] == pytest.approx(n_thresholds / 10)


def test_an_instance_is_matched_once_when_halves_tie():
    truth = line((1, 20))
    pred = line((1, 10), (2, 10))

    scores = evaluate(pred, truth)

    assert scores["precision_50"] == 0.5
    assert scores["recall_50"] == 1


def test_a_split_and_a_merge_are_told_apart():
    whole, halves = line((1, 16)), line((1, 8), (2, 8))

    split, merge = evaluate(halves, whole), evaluate(whole, halves)

    assert (split["voi_split"], split["voi_merge"]) == pytest.approx((1, 0))
    assert (merge["voi_split"], merge["voi_merge"]) == pytest.approx((0, 1))
    # Pairs of voxels: 2 * 8 * 7 in common, 16 * 15 in the whole.
    expected = 1 - 2 * 112 / (112 + 240)
    assert split["adapted_rand_error"] == pytest.approx(expected)
    assert merge["adapted_rand_error"] == pytest.approx(expected)


@settings(deadline=None)
@given(labellings())
def test_pair_scores_are_those_of_skimage(pair):
    pred, truth = pair
    scores = evaluate(pred, truth)
    shared_ids = [np.bincount(ids[truth > 0]) for ids in (truth, pred)]
    if all((sizes > 1).any() for sizes in shared_ids):  # skimage divides by pairs
        error, _, _ = skimage_metrics.adapted_rand_error(
            truth, pred, ignore_labels=(0,)
        )
        assert scores["adapted_rand_error"] == pytest.approx(error)
    if truth.any():
        split, merge = skimage_metrics.variation_of_information(
            truth, pred, ignore_labels=(0,)
        )
        assert scores["voi_split"] == pytest.approx(split, abs=1e-9)
        assert scores["voi_merge"] == pytest.approx(merge, abs=1e-9)


@settings(deadline=None)
@given(labellings(), st.integers(0, 2**32))
def test_names_of_instances_do_not_matter(pair, seed):
    pred, truth = pair
    rng = np.random.default_rng(seed)
    names = np.concatenate([[0], 2**40 + rng.permutation(50)])

    assert evaluate(names[pred], names[truth]) == pytest.approx(evaluate(pred, truth))


@settings(deadline=None)
@given(labellings())
def test_scores_are_finite_and_in_range(pair):
    scores = evaluate(*pair)

    for name, value in scores.items():
        assert math.isfinite(value)
        assert value >= -1e-12
        if name not in (*COUNTS, "voi_split", "voi_merge"):
            assert value <= 1


def test_only_annotated_voxels_count():
    truth = line((1, 10), (0, 10))
    pred = line((1, 10), (8, 10))
    annotated = line((1, 10), (0, 10)) > 0

    assert evaluate(pred, truth)["n_pred"] == 2
    assert evaluate(pred, truth, annotated) == pytest.approx(
        {**PERFECT, "n_true": 1, "n_pred": 1}
    )


def test_small_instances_count_on_neither_side():
    truth = line((1, 10), (0, 5), (2, 3), (0, 5))
    pred = line((1, 10), (0, 11), (2, 2))

    assert evaluate(pred, truth)["f1_50"] == 0.5
    assert evaluate(pred, truth, min_size=4) == pytest.approx(
        {**PERFECT, "n_true": 1, "n_pred": 1}
    )
    assert evaluate(pred, truth, min_size=11) == pytest.approx(
        {**PERFECT, "n_true": 0, "n_pred": 0}
    )


def test_small_true_instances_do_not_enter_the_pair_scores():
    truth = line((1, 10), (2, 2))
    pred = line((1, 12))

    assert evaluate(pred, truth)["adapted_rand_error"] > 0
    assert evaluate(pred, truth, min_size=3)["adapted_rand_error"] == 0


def test_nothing_compared_with_nothing_is_perfect():
    nothing, something = line((0, 8)), line((1, 8))

    assert evaluate(nothing, nothing) == {**PERFECT, "n_true": 0, "n_pred": 0}
    unseen = np.zeros(nothing.shape, bool)
    assert evaluate(something, nothing, unseen) == {**PERFECT, "n_true": 0, "n_pred": 0}
    for pred, truth in ((nothing, something), (something, nothing)):
        scores = evaluate(pred, truth)
        for name in ("f1_50", "precision_50", "recall_50", "ap", "ap_50", "pq_50"):
            assert scores[name] == 0


def test_inputs_are_not_written():
    truth, pred = line((1, 4), (2, 4)), line((3, 5), (0, 3))
    truth.setflags(write=False)
    pred.setflags(write=False)

    evaluate(pred, truth, min_size=4)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="differ"):
        evaluate(line((1, 4)), line((1, 5)))


@settings(deadline=None)
@given(labellings(), st.tuples(*[st.integers(1, 5)] * 3), st.integers(0, 2**32))
def test_blocks_have_the_scores_of_the_whole(pair, block, seed):
    pred, truth = pair
    rng = np.random.default_rng(seed)
    annotated = rng.random(truth.shape) < 0.7 if seed % 2 else None
    min_size = int(rng.integers(0, 5))
    far = pred.astype(np.uint64) * np.uint64(2**61 + 1)  # ids of up to 64 bits

    scores = evaluate_blocks(
        far, truth, annotated, min_size, block=block, threads=1 + seed % 3
    )

    assert scores == evaluate(pred, truth, annotated, min_size)


class Generated:
    """A volume that is made when it is read, like one that lies on a disk."""

    shape, dtype = (64, 256, 256), np.dtype(np.uint32)

    def __init__(self, shift):
        self.shift, self.n_reads = shift, 0

    def __getitem__(self, slices):
        self.n_reads += 1
        z, y, x = (np.arange(s.start, s.stop) // 16 for s in slices)
        ids = z[:, None, None] + 5 * y[:, None] + 90 * (x + self.shift)
        return (ids + 1).astype(self.dtype)


def test_memory_is_bounded_by_the_block():
    pred, truth = Generated(0), Generated(90)
    said = []
    tracemalloc.start()

    scores = evaluate_blocks(
        pred,
        truth,
        block=(16, 64, 64),
        threads=2,
        report=lambda *steps: said.append(steps),
    )

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert scores["ap"] == 1  # the same instances under other names
    assert pred.n_reads == truth.n_reads == 64
    assert said == [(i, 64) for i in range(1, 65)]
    assert peak < 4 * 2**20  # one of the volumes has 16


def test_blocks_where_nothing_is_annotated_are_not_read():
    pred, truth = Generated(0), Generated(0)
    annotated = np.zeros(truth.shape, np.uint8)
    annotated[40, 7, 7] = 3

    scores = evaluate_blocks(pred, truth, annotated, block=(16, 256, 256))

    assert scores["n_true"] == 1
    assert pred.n_reads == truth.n_reads == 1


def test_what_is_wrong_with_a_block_is_said():
    truth = line((1, 4), (2, 4))
    for pred, message in (
        (line((1, 4), (-2, 4)), "A has the negative id -2"),
        (line((1, 4), (2, 4)) + 0.5, "A holds fractions"),
        (line((1, 5)), r"A has the shape \(1, 1, 5\) but B"),
    ):
        with pytest.raises(DataError, match=message):
            evaluate_blocks(pred, truth, block=(1, 1, 3), names=("A", "B"))
    with pytest.raises(DataError, match="the mask has the shape"):
        evaluate_blocks(truth, truth, truth[..., :3], block=(1, 1, 3))
