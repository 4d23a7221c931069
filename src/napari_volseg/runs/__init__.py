"""The run folder: create, launch, follow, stop, resume, list. No torch.

A run folder is all that the outside of a job shares with the process that
does the work, so napari, the command line, a cluster and a test use the same.
"""

from napari_volseg.runs.annotations import read_annotated
from napari_volseg.runs.continuing import longer_budget
from napari_volseg.runs.control import Control, ControlReader, write_control
from napari_volseg.runs.folder import (
    amend_run,
    create_run,
    has_checkpoint,
    is_run,
    read_config,
    read_run,
    settle_config,
)
from napari_volseg.runs.following import describe_death, follow
from napari_volseg.runs.launching import Worker, attach, begin_session, launch
from napari_volseg.runs.listing import (
    RunLister,
    RunSummary,
    default_runs_dir,
    list_runs,
    newest_model,
)
from napari_volseg.runs.log import (
    LOG,
    EventLog,
    read_events,
    read_result,
    shorten_log,
    write_result,
)
from napari_volseg.runs.naming import new_folder, safe_name
from napari_volseg.runs.ownership import is_locked, lock, owner_in_words
from napari_volseg.runs.pairs import (
    TrainingPair,
    absolute_file,
    absolute_source,
    collect_pairs,
)
from napari_volseg.runs.prediction import (
    PredictionRequest,
    create_prediction,
    is_prediction,
    read_prediction,
)
from napari_volseg.runs.revisions import (
    FIRST_REVISION,
    NewLabels,
    add_revision,
    newest_annotated,
    newest_pairs,
    newest_revision,
    read_revision,
    remove_revisions,
)
from napari_volseg.runs.testing import (
    TestVolume,
    collect_test_volumes,
    validation_volumes,
)

__all__ = [
    "FIRST_REVISION",
    "LOG",
    "Control",
    "ControlReader",
    "EventLog",
    "NewLabels",
    "PredictionRequest",
    "RunLister",
    "RunSummary",
    "TestVolume",
    "TrainingPair",
    "Worker",
    "absolute_file",
    "absolute_source",
    "add_revision",
    "amend_run",
    "attach",
    "begin_session",
    "collect_pairs",
    "collect_test_volumes",
    "create_prediction",
    "create_run",
    "default_runs_dir",
    "describe_death",
    "follow",
    "has_checkpoint",
    "is_locked",
    "is_prediction",
    "is_run",
    "launch",
    "list_runs",
    "lock",
    "longer_budget",
    "new_folder",
    "newest_annotated",
    "newest_model",
    "newest_pairs",
    "newest_revision",
    "owner_in_words",
    "read_annotated",
    "read_config",
    "read_events",
    "read_prediction",
    "read_result",
    "read_revision",
    "read_run",
    "remove_revisions",
    "safe_name",
    "settle_config",
    "shorten_log",
    "validation_volumes",
    "write_control",
    "write_result",
]
