"""Thousands of damaged files: no crash, no hang, no other error than DataError."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("mutating.py")


def _try(kind, n, seed, folder):
    done = subprocess.run(
        [
            sys.executable,
            "-X",
            "faulthandler",
            PROGRAM,
            kind,
            str(n),
            str(seed),
            folder,
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", ["hdf5", "npy", "tiff", "zarr"])
def test_damaged_files_are_read_or_refused(kind, tmp_path):
    counts = _try(kind, 125, 0, tmp_path)

    assert counts["read"] + counts["refused"] == 125
    assert min(counts.values()) > 10  # so mutants are neither harmless nor all hopeless


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(1, 11))
@pytest.mark.parametrize("kind", ["hdf5", "npy", "tiff", "zarr"])
def test_many_damaged_files_are_read_or_refused(kind, seed, tmp_path):
    assert sum(_try(kind, 1000, seed, tmp_path).values()) == 1000
