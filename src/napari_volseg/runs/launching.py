"""Start a job in a process of its own, ask it to stop, find it again."""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from napari_volseg.errors import DataError
from napari_volseg.runs.control import CONTROL, write_control
from napari_volseg.runs.folder import has_checkpoint, is_run
from napari_volseg.runs.log import EVENTS, LOG, RESULT, shorten_log
from napari_volseg.runs.ownership import in_use_message, is_locked, read_owner
from napari_volseg.runs.prediction import is_prediction

__all__ = ["Worker", "attach", "begin_session", "launch"]

_detached: list[subprocess.Popen[bytes]] = []
"""Workers that outlive their handle; dropping a live Popen would warn."""


@atexit.register
def _part_from_detached() -> None:
    """End without a warning that workers which may live on are running."""
    for process in _detached:
        if process.poll() is None:
            process.returncode = 0


class Worker:
    """A job's process, started by us or found running.

    While the handle of a worker that we started lives, so does the worker; it
    ends itself when the handle goes or this process ends, unless `detach` was
    called.
    """

    def __init__(
        self, folder: Path, pid: int, process: subprocess.Popen[bytes] | None = None
    ) -> None:
        self.folder = folder
        self.pid = pid
        self.was_killed = False
        """Whether `kill` ended it, or `stop` after its timeout."""
        self._process = process
        self._found: psutil.Process | None = None
        if process is None:
            try:
                self._found = psutil.Process(pid)
            except psutil.Error:
                self._found = None

    @property
    def alive(self) -> bool:
        """Whether the process is running."""
        if self._process is not None:
            return self.returncode() is None
        if self._found is None:
            return False
        try:
            return bool(
                self._found.is_running()
                and self._found.status() != psutil.STATUS_ZOMBIE
            )
        except psutil.Error:
            return False

    def returncode(self) -> int | None:
        """Return the exit code, negative for a signal.

        None while it runs, and for an ended worker that another process started.
        """
        if self._process is None:
            return None
        code = self._process.poll()
        if code is not None:
            self._close_stdin()
        return code

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end at most `timeout` seconds; return whether it came."""
        try:
            if self._process is not None:
                self._process.wait(timeout)
                self._close_stdin()
            elif self._found is not None:
                self._found.wait(timeout)
        except (subprocess.TimeoutExpired, psutil.TimeoutExpired):
            return not self.alive
        return True

    def stop(self, timeout: float | None = None) -> None:
        """Ask the job to stop and keep what it has.

        Parameters
        ----------
        timeout
            None returns at once. Otherwise wait this many seconds and then
            kill the process; its last checkpoint stands.
        """
        write_control(self.folder, stop=True, pause=False)
        if timeout is not None and not self.wait(timeout):
            self.kill()

    def kill(self) -> None:
        """End the process and its children at once; the last checkpoint stands."""
        try:
            target = self._found or psutil.Process(self.pid)
            family = [*target.children(recursive=True), target] if self.alive else []
        except psutil.Error:
            family = []
        self.was_killed = self.was_killed or bool(family)
        for process in family:
            try:
                process.kill()
            except psutil.Error:
                continue
        self.wait(timeout=5)

    def detach(self) -> None:
        """Let the job live on when this process ends."""
        write_control(self.folder, detached=True)
        self._close_stdin()
        if self._process is not None:
            _detached.append(self._process)

    def _close_stdin(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()


def launch(
    folder: Path, *, resume: bool = False, command: Sequence[str] | None = None
) -> Worker:
    """Start a job's worker process; `follow` tells what it does.

    Parameters
    ----------
    folder
        The folder of a run or prediction.
    resume
        Continue a run from its last checkpoint, where it has one; a prediction after
        its last finished block.
    command
        The program to start in place of this package's worker.

    Raises
    ------
    DataError
        If the folder is in use, was trained already and is not to be resumed,
        or the process cannot be started.
    """
    folder = Path(folder).absolute()
    begin_session(folder, resume=resume)
    if command is None:
        # -P keeps the run folder, which is the working folder and may come from
        # someone else, off the path that Python imports from.
        command = [sys.executable, "-P", "-m", "napari_volseg", "worker"]
        command += [str(folder), "--with-parent", *(["--resume"] if resume else [])]
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}
    try:
        shorten_log(folder)
        log = os.open(folder / LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=environment,
                **_own_session(),
            )
        finally:
            os.close(log)
    except OSError as error:
        raise DataError(
            f"cannot start the worker process of {folder}: {error.strerror or error}"
        ) from error
    return Worker(folder, process.pid, process)


def attach(folder: Path) -> Worker | None:
    """Return the worker that owns a folder, None when none runs on this machine."""
    folder = Path(folder).absolute()
    owner = read_owner(folder)
    if owner is None or owner.host != socket.gethostname() or not is_locked(folder):
        return None
    worker = Worker(folder, owner.pid)
    return worker if worker.alive else None


def begin_session(folder: Path, *, resume: bool = False) -> None:
    """Make a job folder ready to be worked in: clear what the last session left.

    Raises
    ------
    DataError
        If it is no job folder, is in use, or was begun and is not to be resumed.
    """
    if not (is_run(folder) or is_prediction(folder)):
        raise DataError(
            f"{folder} is neither a run nor a prediction: see 'volseg runs'"
        )
    if is_locked(folder):
        raise DataError(in_use_message(folder))
    if is_run(folder) and not resume and has_checkpoint(folder):
        raise DataError(
            f"{folder} has been trained already: resume it (--resume), or start a "
            "new run"
        )
    try:
        for name in (RESULT, CONTROL):
            (folder / name).unlink(missing_ok=True)
        if not resume:
            (folder / EVENTS).unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"cannot write in the folder {folder}: {error.strerror or error}"
        ) from None


def _own_session() -> dict[str, Any]:
    """Keep Ctrl-C in the launching terminal from reaching the worker."""
    if sys.platform == "win32":
        flags = (
            subprocess.CREATE_NEW_PROCESS_GROUP
            | subprocess.BELOW_NORMAL_PRIORITY_CLASS
            | subprocess.CREATE_NO_WINDOW
        )
        return {"creationflags": flags}
    return {"start_new_session": True}
