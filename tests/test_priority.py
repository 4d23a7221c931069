"""Work in the background yields to the windows of the user."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

AUTOGROUP = Path("/proc/self/autogroup")
REPORT = """
import os
from pathlib import Path
from napari_volseg.priority import step_back

def session():
    path = Path("/proc/self/autogroup")
    words = path.read_text().split() if path.exists() else []
    return int(words[-1]) if words else None  # empty: a session without a group

before = os.nice(0), session()
step_back()
print(before[0], os.nice(0), before[1], session())
"""

needs_autogroups = pytest.mark.skipif(
    not os.access(AUTOGROUP, os.W_OK), reason="needs Linux with autogroups"
)
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX niceness")


def _report(*, own_session):
    answer = subprocess.run(
        [sys.executable, "-c", REPORT],
        start_new_session=own_session,
        capture_output=True,
        text=True,
        check=True,
    )
    return [None if word == "None" else int(word) for word in answer.stdout.split()]


@pytest.mark.parametrize("own_session", [False, True])
def test_a_process_becomes_nicer(own_session):
    before, after, _, _ = _report(own_session=own_session)
    assert after == min(before + 5, 19)


@needs_autogroups
def test_so_does_the_session_that_it_leads():
    _, niceness, before, after = _report(own_session=True)
    assert before == 0
    assert after == niceness


@needs_autogroups
def test_the_session_of_others_stays_as_it_is():
    _, _, before, after = _report(own_session=False)
    assert after == before
