"""Checkpoints survive full disks, kills at any moment and damage."""

from __future__ import annotations

import errno
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from napari_volseg.checkpoint_folder import (
    iter_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from napari_volseg.errors import DataError

DISK_CALLS = ("open", "fsync", "replace", "link", "unlink")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


def _save(folder, step, keep=3, best=False):
    return save_checkpoint(folder, {"step": step}, step, best=best, keep=keep)


def _step(folder):
    return load_checkpoint(folder)["step"]


def test_only_the_newest_checkpoints_are_kept(folder):
    for step in range(5):
        _save(folder, step, keep=2, best=step == 1)
    names = sorted(p.name for p in folder.glob("step-*"))
    assert names == ["step-000003.ckpt", "step-000004.ckpt"]
    assert torch.load(folder / "best.ckpt", weights_only=True) == {"step": 1}
    assert torch.load(folder / "last.ckpt", weights_only=True) == {"step": 4}
    assert [s["step"] for s in iter_checkpoints(folder)] == [4, 3]


def test_after_a_return_to_an_earlier_step_the_newest_is_the_last_written(folder):
    for step in (10, 20, 15):
        _save(folder, step)
    assert [s["step"] for s in iter_checkpoints(folder)] == [15, 20, 10]


def test_there_is_no_checkpoint_in_an_empty_folder(tmp_path):
    assert load_checkpoint(tmp_path) is None
    assert load_checkpoint(tmp_path / "missing") is None


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "empty"])
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_is_used(folder, damage):
    for step in (1, 2):
        _save(folder, step)
    newest = folder / "step-000002.ckpt"
    data = bytearray(newest.read_bytes())
    newest.unlink()
    if damage == "flip":
        data[len(data) // 2] ^= 1
        newest.write_bytes(data)
    elif damage == "cut":
        newest.write_bytes(data[:-40])
    elif damage == "empty":
        newest.touch()
    assert _step(folder) == 1


@pytest.mark.parametrize("place", range(8))
def test_a_flipped_byte_anywhere_in_the_newest_is_noticed(folder, place):
    _save(folder, 1)
    newest = _save(folder, 2)
    data = bytearray(newest.read_bytes())
    data[place * (len(data) - 1) // 7] ^= 0x20
    newest.write_bytes(data)
    assert _step(folder) == 1


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '[{"file": 3}]', '{"file": 1}', "null"]
)
def test_without_a_readable_list_the_files_are_judged_by_themselves(folder, text):
    for step in (1, 2):
        _save(folder, step)
    (folder / "index.json").write_text(text)
    assert _step(folder) == 2
    newest = folder / "step-000002.ckpt"
    data = bytearray(newest.read_bytes())
    data[data.index(b"step") + 2] ^= 1
    newest.write_bytes(data)
    assert _step(folder) == 1


def test_the_list_cannot_lead_out_of_the_folder(folder, tmp_path):
    outside = tmp_path / "step-000009.ckpt"
    _save(folder, 1)
    outside.write_bytes((folder / "step-000001.ckpt").read_bytes())
    entries = json.loads((folder / "index.json").read_text())
    entries[0]["file"] = "../step-000009.ckpt"
    (folder / "index.json").write_text(json.dumps(entries))
    _save(folder, 2)
    assert outside.exists()


class _FullAt:
    """Fails the n-th call that changes the disk."""

    def __init__(self, monkeypatch, n):
        self.calls, self._n = 0, n
        for name in DISK_CALLS:
            monkeypatch.setattr(os, name, self._wrap(getattr(os, name)))
        monkeypatch.setattr(Path, "write_bytes", self._wrap(Path.write_bytes))
        monkeypatch.setattr(Path, "write_text", self._wrap(Path.write_text))

    def _wrap(self, call):
        def maybe(*args, **kwargs):
            self.calls += 1
            if self.calls == self._n:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(*args, **kwargs)

        return maybe


@pytest.mark.parametrize("keep", [1, 3])
def test_a_disk_that_fills_at_any_call_leaves_a_good_checkpoint(tmp_path, keep):
    messages = []
    for n in itertools.count(1):
        folder = tmp_path / str(n)
        _save(folder, 1, keep)
        with pytest.MonkeyPatch.context() as monkeypatch:
            disk = _FullAt(monkeypatch, n)
            try:
                _save(folder, 2, keep, best=True)
                saved = True
            except (DataError, OSError) as error:
                saved = False
                messages.append(str(error))
        assert _step(folder) in ((2,) if saved else (1, 2))
        leftovers = [p.name for p in folder.iterdir() if p.name.startswith(".")]
        # A temporary file remains only where removing it is what failed.
        assert len(leftovers) <= 1
        _save(folder, 3, keep, best=True)
        assert _step(folder) == 3
        if disk.calls < n:
            break
    assert len(messages) >= 5
    assert all("No space left" in message for message in messages)


KILLED = """
import os, signal, sys
from pathlib import Path
from napari_volseg.checkpoint_folder import load_checkpoint, save_checkpoint

def hook(n):
    calls = 0
    def wrap(call):
        def maybe(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == n:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)
        return maybe
    for name in ("open", "fsync", "replace", "link", "unlink"):
        setattr(os, name, wrap(getattr(os, name)))
    Path.write_bytes = wrap(Path.write_bytes)
    Path.write_text = wrap(Path.write_text)

base, keep = Path(sys.argv[1]), int(sys.argv[2])
n = 0
while True:
    n += 1
    folder = base / str(n)
    save_checkpoint(folder, {"step": 1}, 1, best=False, keep=keep)
    child = os.fork()
    if child == 0:
        hook(n)
        save_checkpoint(folder, {"step": 2}, 2, best=True, keep=keep)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    found = load_checkpoint(folder)
    save_checkpoint(folder, {"step": 3}, 3, best=True, keep=keep)
    again = load_checkpoint(folder)["step"]
    print(n, status, found and found["step"], again, flush=True)
    if status == 0:
        break
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills a forked process")
@pytest.mark.parametrize("keep", [1, 3])
def test_a_kill_at_any_call_of_a_save_leaves_a_good_checkpoint(tmp_path, keep):
    """Every change of the disk that a save makes is tried as the moment of death."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), str(keep)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    *killed, whole = rows
    assert len(killed) >= 8
    assert all(status == "9" for _, status, _, _ in killed)
    assert all(found in ("1", "2") for _, _, found, _ in killed)
    assert whole[1:] == ["0", "2", "3"]
    assert all(again == "3" for _, _, _, again in rows)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux's /proc")
def test_what_takes_a_name_is_flushed_before_and_its_folder_after(folder, monkeypatch):
    """Losing every write that was not flushed then loses no checkpoint."""
    log = []
    fsync, replace = os.fsync, os.replace

    def note_flush(descriptor):
        log.append(("flush", os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def note_name(source, target):
        log.append(("name", str(source), str(target)))
        replace(source, target)

    _save(folder, 1)
    monkeypatch.setattr(os, "fsync", note_flush)
    monkeypatch.setattr(os, "replace", note_name)
    _save(folder, 2)
    named = [e for e in log if e[0] == "name" and "last.ckpt" not in e[2]]
    assert [Path(e[2]).name for e in named] == ["step-000002.ckpt", "index.json"]
    for entry in named:
        place = log.index(entry)
        assert ("flush", entry[1]) in log[:place]
        assert ("flush", str(folder)) in log[place:]
