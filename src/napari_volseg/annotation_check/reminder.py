"""Say beside a running training what its annotation should be looked at for."""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator, Iterator, Sequence

from napari_volseg.annotation_check import check_labels, summary_words
from napari_volseg.annotation_check.findings import Finding
from napari_volseg.events import Event, Finished, Notice
from napari_volseg.volume import LabelledVolume

__all__ = ["with_reminder"]

_logger = logging.getLogger(__name__)

_MOST_VOXELS = 64 * 2**20
"""Larger labels take minutes and memory: they are checked on request only."""


def with_reminder(
    events: Iterator[Event], volumes: Sequence[LabelledVolume]
) -> Iterator[Event]:
    """Yield the events of a training, and one Notice when its labels look wrong.

    The labels are checked in a thread meanwhile, so that training does not wait.
    Closing this generator closes `events`.
    """
    notices: list[Notice] = []
    thread = threading.Thread(target=_check, args=(volumes, notices), daemon=True)
    thread.start()
    try:
        for event in events:
            if notices and not isinstance(event, Finished):
                yield notices.pop()
            yield event
    finally:
        if isinstance(events, Generator):
            events.close()


def _check(volumes: Sequence[LabelledVolume], notices: list[Notice]) -> None:
    if sum(volume.labels_ZYX.size for volume in volumes) > _MOST_VOXELS:
        return
    findings: list[Finding] = []
    try:
        for volume in volumes:
            findings += check_labels(volume.labels_ZYX, volume.annotated_ZYX)
    except Exception:  # a reminder must not end a training
        _logger.exception("the annotation could not be checked")
        return
    if any(finding.severity != "info" for finding in findings):
        notices.append(
            Notice(
                f"The annotation has {summary_words(findings)}: look at them in VolSeg "
                "› Check, or with 'volseg check'.",
                "warning",
            )
        )
