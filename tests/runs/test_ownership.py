import errno
import json
import os
import socket
import subprocess
import sys

import pytest

from napari_volseg.errors import DataError
from napari_volseg.runs import attach, is_locked, lock


def test_one_owner_at_a_time_and_the_next_is_told_who(tmp_path, monkeypatch):
    monkeypatch.setattr("napari_volseg.runs.ownership._PATIENCE", 0.1)
    with lock(tmp_path):
        assert is_locked(tmp_path)
        with (
            pytest.raises(DataError, match=f"in use by process {os.getpid()} on"),
            lock(tmp_path),
        ):
            pytest.fail("two owners")
    assert not is_locked(tmp_path)
    with lock(tmp_path):
        assert is_locked(tmp_path)


def test_the_lock_is_free_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), lock(tmp_path):
        raise ZeroDivisionError
    assert not is_locked(tmp_path)


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    code = (
        "import os, sys; from pathlib import Path\n"
        "from napari_volseg.runs import lock\n"
        "with lock(Path(sys.argv[1])): os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert (tmp_path / "owner.json").exists()
    assert not is_locked(tmp_path)
    with lock(tmp_path):
        assert json.loads((tmp_path / "owner.json").read_text())["pid"] == os.getpid()


def test_looking_leaves_no_trace(tmp_path):
    assert not is_locked(tmp_path)
    assert attach(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_gone_is_named(tmp_path):
    with (
        pytest.raises(DataError, match="is not there"),
        lock(tmp_path / "gone"),
    ):
        pytest.fail("locked nothing")


def test_an_owner_on_another_machine_cannot_be_attached_to(tmp_path):
    with lock(tmp_path):
        owner = {"pid": os.getpid(), "host": f"not-{socket.gethostname()}"}
        (tmp_path / "owner.json").write_text(json.dumps(owner))
        assert attach(tmp_path) is None
        (tmp_path / "owner.json").write_text("{")
        assert attach(tmp_path) is None


@pytest.mark.skipif(os.name != "posix", reason="flock is POSIX")
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_a_disk_without_locks_is_guarded_by_a_file(tmp_path, monkeypatch, number):
    _take_locks_away(monkeypatch, number)
    monkeypatch.setattr("napari_volseg.runs.ownership._PATIENCE", 0.1)
    with lock(tmp_path):
        assert is_locked(tmp_path)
        with (
            pytest.raises(DataError, match=f"in use by process {os.getpid()} on"),
            lock(tmp_path),
        ):
            pytest.fail("two owners")
    assert not is_locked(tmp_path)
    with lock(tmp_path):
        assert is_locked(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="flock is POSIX")
def test_the_file_of_a_killed_process_is_taken_over(tmp_path, monkeypatch):
    code = (
        "import errno, fcntl, os, sys; from pathlib import Path\n"
        "def none(*args): raise OSError(errno.ENOTSUP, 'no locks here')\n"
        "fcntl.flock = none\n"
        "from napari_volseg.runs import lock\n"
        "with lock(Path(sys.argv[1])): os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert list(tmp_path.glob(".lock*soft"))
    _take_locks_away(monkeypatch, errno.ENOTSUP)
    assert not is_locked(tmp_path)
    with lock(tmp_path):
        assert is_locked(tmp_path)


def _take_locks_away(monkeypatch, number):
    def refuse(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
