import itertools

import pytest

from napari_volseg import profiling
from napari_volseg.config import build_config
from napari_volseg.planning import plan_training
from napari_volseg.profiling import STAGES, Trial, judge, profile_loading
from napari_volseg.runs import TrainingPair
from napari_volseg.sampling import PatchSource

EVEN = dict.fromkeys(STAGES, 1.0)


class Clock:
    """Time that passes only while the clock is told so."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def profiled(tiny_config, cells, tmp_path, monkeypatch):
    """Return a function that profiles with given costs of a patch and a step."""

    def run(patch_seconds, step_seconds, n_workers=0):
        tree = tiny_config.model_dump(mode="json")
        tree["system"]["training"]["num_workers"] = n_workers
        config = build_config(tree)
        pairs = [TrainingPair(cells, None, "train")]
        clock = Clock()
        draw, learn = PatchSource.draw, profiling.Learner.learn

        def slow_draw(source, step, place):
            with source.stage("augment"):
                clock.seconds += patch_seconds
            return draw(source, step, place)

        def slow_learn(learner, batches):
            clock.seconds += step_seconds
            return learn(learner, batches)

        monkeypatch.setattr(PatchSource, "draw", slow_draw)
        monkeypatch.setattr(profiling.Learner, "learn", slow_learn)
        plan = plan_training(config, pairs, tmp_path)
        return profile_loading(
            plan, pairs, tmp_path, steps=4, threads=[n_workers], now=clock
        )

    return run


def test_what_the_network_waits_is_what_patches_cost(profiled):
    profile = profiled(patch_seconds=0.25, step_seconds=1.0)
    (trial,) = profile.trials
    assert trial.threads == 0
    assert trial.wait_ms == pytest.approx(500)  # two patches a step
    assert trial.step_ms == pytest.approx(1000)
    assert profile.ready_step_ms == pytest.approx(1000)
    assert trial.lost == pytest.approx(1 / 3)
    assert profile.stages_ms["augment"] == pytest.approx(250)
    assert profile.verdict == "slow"
    assert "waits 500.0 ms" in profile.advice
    assert "(33%)" in profile.advice
    assert "augmentation.preset" in profile.advice


def test_data_that_cost_nothing_are_ready(profiled):
    profile = profiled(patch_seconds=0.001, step_seconds=1.0)
    assert profile.verdict == "ready"
    assert profile.trials[0].wait_ms == pytest.approx(2)
    assert 0 < profile.annotated <= 1
    assert profile.batch_size == 2


def test_on_a_real_clock_every_stage_takes_time(tiny_config, cells, tmp_path):
    pairs = [TrainingPair(cells, None, "train")]
    plan = plan_training(tiny_config, pairs, tmp_path)
    profile = profile_loading(plan, pairs, tmp_path, steps=2, threads=[0, 2])
    assert [t.threads for t in profile.trials] == [0, 2]
    assert all(profile.stages_ms[stage] > 0 for stage in STAGES)
    assert all(t.wait_ms > 0 and t.step_ms > 0 for t in profile.trials)


def test_other_programs_are_not_blamed_on_data(
    tiny_config, cells, tmp_path, monkeypatch
):
    pairs = [TrainingPair(cells, None, "train")]
    clock, learn = Clock(), profiling.Learner.learn
    n_steps = itertools.count()

    def slow_learn(learner, batches):
        clock.seconds += 1.0 if next(n_steps) < 5 else 2.0
        return learn(learner, batches)

    monkeypatch.setattr(profiling.Learner, "learn", slow_learn)
    plan = plan_training(tiny_config, pairs, tmp_path)
    profile = profile_loading(plan, pairs, tmp_path, steps=4, threads=[0], now=clock)
    assert profile.verdict == "ready"
    assert profile.trials[0].lost == 0
    assert "other programs" in profile.advice


def _trial(threads, wait, step, lost):
    return Trial(threads, wait, step, lost)


def test_more_threads_are_advised_where_they_help():
    trials = [_trial(0, 50, 100, 0.33), _trial(2, 1, 102, 0.03)]
    verdict, advice = judge(trials, 0, EVEN)
    assert verdict == "slow"
    assert "num_workers=2 makes steps 1.46 times as fast" in advice


def test_threads_that_take_time_from_the_network_are_seen():
    verdict, advice = judge([_trial(1, 0.1, 130, 0.23)], 1, EVEN)
    assert verdict == "contended"
    assert "the same cores" in advice


@pytest.mark.parametrize(
    ("stage", "remedy"),
    [
        ("read", "data.cache=ram"),
        ("crop", "augmentation.elastic"),
        ("augment", "augmentation.preset"),
        ("collate", "batch_size"),
    ],
)
def test_the_remedy_is_for_the_stage_that_takes_longest(stage, remedy):
    _, advice = judge([_trial(1, 80, 100, 0.4)], 1, {**EVEN, stage: 9.0})
    assert remedy in advice
    assert "75%" in advice
