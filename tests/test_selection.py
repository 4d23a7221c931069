import math

import pytest

from napari_volseg.config import build_config
from napari_volseg.record import Record
from napari_volseg.selection import early_verdict, note_epoch, note_score


def _config(**stopping):
    return build_config({"monitor": {"early_stopping": stopping}})


def test_the_best_score_is_kept_with_its_metrics():
    record = Record()
    improved = [note_score(record, s, {"f1_50": s}, 0.0) for s in (0.3, 0.2, 0.5, 0.5)]
    assert improved == [True, False, True, False]
    assert (record.best_score, record.best_metrics) == (0.5, {"f1_50": 0.5})
    assert not note_score(record, math.nan, {}, 0.0)


def test_patience_counts_epochs_in_which_neither_score_nor_loss_improves():
    record, config = Record(), _config(patience=3, min_delta=0.01, threshold=0)
    stale = []
    for loss, score in [
        (1, 0.1),
        (0.9, 0.1),
        (0.9, 0.3),
        (0.9, 0.301),
        (0.9, 0),
        (2, 0),
    ]:
        note_score(record, score, {}, 0.01)
        note_epoch(record, loss, loss, 0.01)
        stale.append(record.stale_epochs)
    assert stale == [0, 0, 0, 1, 2, 3]
    verdict = early_verdict(record, config)
    assert verdict.reason == "converged"
    assert "no improvement for 3 epochs" in verdict.why


def test_epochs_without_a_watched_loss_count_for_patience():
    record = Record()
    stale = []
    for loss, score in [(1, 0.1), (1, 0.3), (1, 0.2), (0.5, 0.2), (1, 0.2)]:
        note_score(record, score, {}, 0.0)
        note_epoch(record, loss, loss, 0.0, n_epochs=5)
        stale.append(record.stale_epochs)
    assert stale == [0, 0, 5, 0, 5]


def test_a_low_training_loss_has_converged():
    record = Record()
    note_epoch(record, 0.019, 0.5, 0.0)
    assert early_verdict(record, _config()).reason == "converged"
    assert early_verdict(record, _config(threshold=0.01)) is None


@pytest.mark.parametrize(("train", "watched"), [(150, 1), (1, 150)])
def test_a_loss_above_the_limit_has_diverged(train, watched):
    record = Record()
    note_epoch(record, train, watched, 0.0)
    verdict = early_verdict(record, _config(divergence_threshold=100))
    assert verdict.reason == "stopped"
    assert "150" in verdict.why
    assert "optimization.optimizer.lr=0.0005" in verdict.why
    assert early_verdict(record, _config(divergence_threshold=None)) is None
    assert early_verdict(record, _config(divergence_threshold=200)) is None


def test_a_training_loss_diverges_also_before_anything_is_validated():
    record, config = Record(), _config(divergence_threshold=10.0)
    record.last_loss = 11.0
    assert early_verdict(record, config).reason == "stopped"


def test_before_the_first_epoch_there_is_no_verdict():
    assert early_verdict(Record(), _config()) is None


def test_early_stopping_can_be_switched_off():
    record = Record()
    note_epoch(record, 0.001, 1e9, 0.0)
    assert early_verdict(record, _config(enabled=False)) is None
