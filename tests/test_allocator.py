"""Freed memory that stays in the process."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource
from napari_volseg.allocator import keep_freed_memory
assert keep_freed_memory() is {done}
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
turns = []
for _ in range(4):
    before = faults()
    array = bytearray(64_000_000)
    del array
    turns.append(faults() - before)
print(*turns)
"""


def page_faults(done, **environment):
    """Return the faults of allocating 64 MB, freed each time, in a new process."""
    names = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
    kept = {k: v for k, v in os.environ.items() if k not in names}
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(done=done)],
        capture_output=True,
        check=True,
        text=True,
        env=kept | environment,
    )
    return [int(word) for word in answer.stdout.split()]


@pytest.mark.skipif(
    not (sys.platform == "linux" and os.confstr("CS_GNU_LIBC_VERSION")),
    reason="needs the GNU C library",
)
@pytest.mark.parametrize("trim", [{}, {"MALLOC_TRIM_THRESHOLD_": "65536"}])
def test_freed_memory_is_used_again(trim):
    first, *later = page_faults(True, **trim)
    assert max(later) < 0.01 * first


def test_the_owner_of_the_environment_has_decided():
    assert len(page_faults(False, MALLOC_MMAP_MAX_="65536")) == 4
