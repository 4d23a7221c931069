"""Choose the settings of the next trial from those before, with Optuna."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_volseg.config import parse_value
from napari_volseg.errors import DataError
from napari_volseg.events import Event
from napari_volseg.runs import (
    Worker,
    collect_pairs,
    create_run,
    has_checkpoint,
    is_run,
    launch,
    lock,
)
from napari_volseg.sweeps.folder import (
    JOURNAL,
    TRIALS,
    Sweep,
    TrialRow,
    trial_config,
    write_best,
    write_table,
)
from napari_volseg.sweeps.space import Range
from napari_volseg.sweeps.trials import Launch, Outcome, run_trial

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

__all__ = ["SearchResult", "search"]

_MAX_FAILURES = 3


@dataclass(frozen=True, slots=True)
class SearchResult:
    """How a sweep stands."""

    rows: tuple[TrialRow, ...]
    best: TrialRow | None
    best_config: Path | None
    complete: bool
    """Whether all trials have been done."""


def search(
    sweep: Sweep,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    show: Callable[[Event], None] = lambda event: None,
    tell: Callable[[TrialRow], None] = lambda row: None,
    start: Launch | None = None,
) -> SearchResult:
    """Do the trials of a sweep that are still to do.

    A trial that was interrupted is gone on with from its checkpoint. The journal is
    plain text, one line an entry, so a kill at any moment costs nothing but the
    trial's work since its last checkpoint.

    Parameters
    ----------
    should_stop
        Asked several times a second; True stops the running trial and keeps it.
    show
        Called with the events of the running trial.
    tell
        Called with each trial before it begins and when it has ended.
    start
        Starts the worker of a trial; the package's own by default.

    Raises
    ------
    DataError
        If Optuna is not installed, another process works on the sweep, or three
        trials in a row fail.
    """
    study = _open_study(sweep)
    with lock(sweep.folder):
        _adopt_orphans(study)
        n_failures = 0
        while not should_stop() and _n_done(study) < sweep.n_trials:
            outcome = _next_trial(study, sweep, should_stop, show, tell, start)
            _record(study, sweep)
            n_failures = n_failures + 1 if outcome.state == "failed" else 0
            if n_failures == _MAX_FAILURES:
                raise DataError(
                    f"{_MAX_FAILURES} trials in a row failed, the last one because: "
                    f"{outcome.message}"
                )
        return _record(study, sweep)


def _open_study(sweep: Sweep) -> optuna.Study:
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
    except ImportError:
        raise DataError(
            "a sweep needs Optuna: run \"pip install 'napari-volseg[sweep]'\""
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = str(sweep.folder / JOURNAL)
    backend = JournalFileBackend(path, lock_obj=JournalFileOpenLock(path))
    study = optuna.create_study(
        storage=JournalStorage(backend),
        study_name="sweep",
        direction="minimize" if sweep.minimise else "maximize",
        load_if_exists=True,
    )
    # A resumed sweep must not propose again what it proposed before.
    seed = int(sweep.config["system"]["seed"]) + 1000 * len(study.get_trials())
    study.sampler = optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=max(3, min(10, sweep.n_trials // 3))
    )
    study.pruner = (
        optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=1)
        if sweep.prune
        else optuna.pruners.NopPruner()
    )
    return study


def _adopt_orphans(study: optuna.Study) -> None:
    """Propose again the trials that a killed or stopped sweep left unfinished."""
    from optuna.trial import TrialState

    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        run = trial.user_attrs.get("run", _run_name(trial.number))
        attributes = {"run": run, "continues": trial.number}
        study.enqueue_trial(trial.params, user_attrs=attributes)


def _next_trial(
    study: optuna.Study,
    sweep: Sweep,
    should_stop: Callable[[], bool],
    show: Callable[[Event], None],
    tell: Callable[[TrialRow], None],
    start: Launch | None,
) -> Outcome:
    from optuna.trial import TrialState

    trial = study.ask(_distributions(sweep.space))
    name = str(trial.user_attrs.get("run", _run_name(trial.number)))
    trial.set_user_attr("run", name)
    folder = sweep.folder / TRIALS / name
    values = _values(trial.params)
    tell(TrialRow(trial.number, "running", None, 0, "", values, folder))

    def report(n: int, score: float) -> bool:
        trial.report(score, n)
        return trial.should_prune()

    try:
        resume = _prepare(sweep, values, folder)
        outcome = run_trial(
            folder, sweep.metric, launch=start or _launch, resume=resume,
            report=report, should_stop=should_stop, show=show,
        )  # fmt: skip
    except DataError as error:
        outcome = Outcome("failed", None, 0, str(error))
    trial.set_user_attr("message", outcome.message)
    trial.set_user_attr("step", outcome.step)
    if outcome.score is not None:
        trial.set_user_attr("score", outcome.score)
    if outcome.state == "completed":
        study.tell(trial, outcome.score)
    elif outcome.state != "interrupted":  # that one stays open, to be gone on with
        state = TrialState.PRUNED if outcome.state == "pruned" else TrialState.FAIL
        study.tell(trial, state=state)
    tell(TrialRow(trial.number, outcome.state, outcome.score, outcome.step,
                  outcome.message, values, folder))  # fmt: skip
    return outcome


def _prepare(sweep: Sweep, values: Mapping[str, Any], folder: Path) -> bool:
    """Make the run folder of a trial; return whether there is one to go on with."""
    if is_run(folder) and has_checkpoint(folder):
        return True
    if folder.exists():
        shutil.rmtree(folder)
    config = trial_config(sweep, values)
    create_run(config, collect_pairs(config), folder.parent, folder.name)
    return False


def _launch(folder: Path, resume: bool) -> Worker:
    return launch(folder, resume=resume)


def _distributions(space: Mapping[str, Range]) -> dict[str, BaseDistribution]:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    found: dict[str, BaseDistribution] = {}
    for key, values in space.items():
        if values.kind == "choice":
            found[key] = CategoricalDistribution(values.choices)
        elif values.kind == "int":
            steps = int(values.high - values.low) // values.step
            high = int(values.low) + steps * values.step
            found[key] = IntDistribution(int(values.low), high, step=values.step)
        else:
            log = values.kind == "log"
            found[key] = FloatDistribution(values.low, values.high, log=log)
    return found


def _values(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as they are written: choices are stored as YAML."""
    return {
        key: parse_value(value) if isinstance(value, str) else value
        for key, value in params.items()
    }


def _rows(study: optuna.Study, sweep: Sweep) -> list[TrialRow]:
    from optuna.trial import TrialState

    words = {
        TrialState.COMPLETE: "completed",
        TrialState.PRUNED: "pruned",
        TrialState.FAIL: "failed",
        TrialState.RUNNING: "interrupted",
    }
    rows = []
    for trial in _trials(study):
        if trial.state not in words:
            continue
        told = trial.user_attrs
        rows.append(
            TrialRow(
                number=trial.number,
                state=words[trial.state],
                score=told.get("score", trial.value),
                step=int(told.get("step", 0)),
                message=str(told.get("message", "")),
                settings=_values(trial.params),
                folder=sweep.folder / TRIALS / str(told.get("run", "")),
            )
        )
    return rows


def _trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials, without those that a later one went on with."""
    trials = study.get_trials(deepcopy=False)
    continued = {trial.user_attrs.get("continues") for trial in trials}
    return [trial for trial in trials if trial.number not in continued]


def _n_done(study: optuna.Study) -> int:
    return sum(trial.state.is_finished() for trial in _trials(study))


def _record(study: optuna.Study, sweep: Sweep) -> SearchResult:
    rows = _rows(study, sweep)
    write_table(sweep, rows)
    scored = [row for row in rows if row.state == "completed" and row.score is not None]
    sign = -1 if sweep.minimise else 1
    best = max(scored, key=lambda row: sign * (row.score or 0.0), default=None)
    path = None if best is None else write_best(sweep, best)
    complete = _n_done(study) >= sweep.n_trials
    return SearchResult(tuple(rows), best, path, complete)


def _run_name(number: int) -> str:
    return f"trial-{number:03d}"
