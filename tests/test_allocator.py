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


KEPT_AND_GIVEN_BACK = """
import psutil
from napari_volseg.allocator import give_back_memory, keep_freed_memory
keep_freed_memory()
array = bytearray(200_000_000)
array[::4096] = bytes(len(array[::4096]))
del array
print(psutil.Process().memory_info().rss)
give_back_memory()
print(psutil.Process().memory_info().rss)
"""


def page_faults(done, **environment):
    """Return the faults of allocating 64 MB, freed each time."""
    return numbers(PROGRAM.format(done=done), **environment)


def numbers(program, **environment):
    """Return what a new process prints."""
    names = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
    kept = {k: v for k, v in os.environ.items() if k not in names}
    answer = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=True,
        text=True,
        env=kept | environment,
    )
    return [int(word) for word in answer.stdout.split()]


only_gnu = pytest.mark.skipif(
    "CS_GNU_LIBC_VERSION" not in getattr(os, "confstr_names", ()),
    reason="needs the GNU C library",
)


@only_gnu
@pytest.mark.parametrize("trim", [{}, {"MALLOC_TRIM_THRESHOLD_": "65536"}])
def test_freed_memory_is_used_again(trim):
    first, *later = page_faults(True, **trim)
    assert max(later) < 0.01 * first


def test_the_owner_of_the_environment_has_decided():
    assert len(page_faults(False, MALLOC_MMAP_MAX_="65536")) == 4


@only_gnu
def test_kept_memory_is_given_back_when_asked():
    kept, after = numbers(KEPT_AND_GIVEN_BACK)
    assert kept - after > 190_000_000
