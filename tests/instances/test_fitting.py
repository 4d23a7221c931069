import numpy as np
import pytest
from scipy import ndimage

from napari_volseg.config import InstancesConfig
from napari_volseg.instances import fit_thresholds, fitting, segment
from napari_volseg.metrics import evaluate
from napari_volseg.sample_data import make_sample
from napari_volseg.targets import make_targets


@pytest.fixture(scope="module")
def truth():
    return make_sample("vesicles", (16, 80, 80)).labels_ZYX


@pytest.fixture(scope="module")
def maps(truth):
    """Maps as a network makes them: too low, blurred and noisy."""
    rng = np.random.default_rng(0)
    targets = make_targets(truth, (30, 8, 8)).values_CZYX
    blurred = [
        ndimage.gaussian_filter(channel.astype(float), (0.4, 1.2, 1.2)) * share
        for channel, share in zip(targets, (0.8, 0.6, 0.5), strict=True)
    ]
    noise = rng.normal(0, 12, targets.shape)
    return np.clip(np.stack(blurred) + noise, 0, 255).astype(np.uint8)


def ap(maps, truth, config):
    return evaluate(segment(maps, config), truth)["ap"]


@pytest.mark.parametrize("seed_distance", [0.5, 0.9])
def test_fitted_thresholds_are_much_better_than_bad_ones(maps, truth, seed_distance):
    start = InstancesConfig(seed_distance=seed_distance)

    fitted = fit_thresholds(maps, truth, None, start)

    assert ap(maps, truth, start) < 0.3
    assert fitted.scores["ap"] > 0.5
    assert fitted.scores["ap"] == ap(maps, truth, fitted.config)
    error = fitted.scores["adapted_rand_error"]
    assert fitted.score == pytest.approx(fitted.scores["ap"] + 0.1 * (1 - error))


def test_the_number_of_segmentations_is_bounded(maps, truth, monkeypatch):
    calls = []

    def count(*args):
        calls.append(args)
        return segment(*args)

    monkeypatch.setattr(fitting, "segment", count)
    fit_thresholds(maps, truth, None, InstancesConfig())

    assert 20 < len(calls) <= 60


def test_where_nothing_differs_the_start_is_kept():
    truth = np.zeros((6, 30, 30), np.int32)
    truth[:, 5:12, 5:12], truth[:, 18:25, 18:25] = 1, 2
    maps = np.zeros((3, *truth.shape), np.uint8)
    maps[0] = maps[2] = np.where(truth, 255, 0)
    start = InstancesConfig(seed_distance=0.37, mask=0.61, seed_boundary=0.44)

    fitted = fit_thresholds(maps, truth, None, start).config

    assert fitted.model_copy(update={"min_size": start.min_size}) == start
    assert fitted.min_size == truth[truth == 1].size // 5


def test_the_middle_of_a_plateau_is_taken_when_the_start_is_off_it():
    truth = np.zeros((6, 30, 30), np.int32)
    truth[:, 5:12, 5:12], truth[:, 18:25, 18:25] = 1, 2
    maps = np.zeros((3, *truth.shape), np.uint8)
    maps[0] = np.where(truth, 255, 0)
    maps[2] = np.where(truth, 140, 0)  # 0.55

    fitted = fit_thresholds(maps, truth, None, InstancesConfig(seed_distance=0.8))

    assert 0.2 <= fitted.config.seed_distance <= 0.4
    assert fitted.scores["ap"] == 1


@pytest.mark.parametrize(
    ("n_objects", "caution", "depth"), [(15, 0, 0.3), (15, 1, 0.12), (100, 1, 0.3)]
)
def test_with_caution_a_threshold_moves_for_more_than_one_object(
    monkeypatch, n_objects, caution, depth
):
    truth = np.arange(n_objects * 8).reshape(1, n_objects, 8) // 8 + 1
    maps = np.zeros((3, *truth.shape), np.uint8)
    monkeypatch.setattr(fitting, "segment", lambda maps, config: config)
    monkeypatch.setattr(
        fitting,
        "evaluate",
        lambda config, *_: {
            "ap": 0.5 + 0.02 * (config.seed_depth == 0.3),
            "adapted_rand_error": 0.1,
        },
    )
    start = InstancesConfig(seed_depth=0.12)

    fitted = fit_thresholds(maps, truth, None, start, caution=caution)

    assert fitted.config.seed_depth == depth


def test_only_annotated_voxels_are_fitted_to(maps, truth):
    annotated = np.zeros(truth.shape, bool)
    annotated[:, :40] = True
    wrong = truth.copy()
    wrong[:, 40:] = np.random.default_rng(0).integers(0, 9, wrong[:, 40:].shape)

    fitted = fit_thresholds(maps, truth, annotated, InstancesConfig())
    again = fit_thresholds(maps, wrong, annotated, InstancesConfig())

    assert fitted == again
    assert fitted.scores["ap"] > 0.4


@pytest.mark.parametrize("annotated", [False, True])
def test_without_a_true_instance_the_start_comes_back(maps, truth, annotated):
    start = InstancesConfig(seed_distance=0.7)
    known = np.zeros(truth.shape, bool)
    known[0, 0, 0] = annotated
    labels = truth if not annotated else np.zeros_like(truth)

    fitted = fit_thresholds(maps, labels, known, start)

    assert (fitted.config, fitted.score, fitted.scores) == (start, 0, {})


def test_inputs_are_not_written(maps, truth):
    arrays = [maps.copy(), truth.copy(), np.ones(truth.shape, bool)]
    for array in arrays:
        array.setflags(write=False)

    fit_thresholds(*arrays, InstancesConfig())


def test_curves_say_how_the_score_depends_on_each_threshold(maps, truth):
    steps = []

    fitted = fit_thresholds(
        maps[:, :, :40, :40],
        truth[:, :40, :40],
        None,
        InstancesConfig(seed_distance=0.9),
        with_curves=True,
        report=lambda done, total: steps.append((done, total)),
    )

    assert set(fitted.curves) == {
        "mask",
        "seed_boundary",
        "seed_distance",
        "seed_depth",
    }
    for name, points in fitted.curves.items():
        values = [value for value, _ in points]
        assert values == sorted(set(values))
        at_best = dict(points)[getattr(fitted.config, name)]
        assert at_best == pytest.approx(fitted.score)
    assert fitted.before["ap"] < fitted.scores["ap"]
    assert [done for done, _ in steps] == list(range(1, len(steps) + 1))
    assert all(done <= total for done, total in steps)
