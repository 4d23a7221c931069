"""What faults are kept away by: nothing in the sources does what brings them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import napari_volseg

SOURCES = sorted(Path(napari_volseg.__file__).parent.rglob("*.py"))

# 107, 121: a forked or spawned copy of napari or of a process that holds torch.
# 131: memory that /dev/shm has no room for. 95: threads that Qt destroys. 1, 28: code
# in files. 118: ports.
FORBIDDEN = {
    "multiprocessing",
    "torch.multiprocessing",
    "torch.hub",
    "torch.utils.data",
    "monai.bundle",
    "pickle",
    "os.fork",
    "os.forkpty",
    "QThread",
    "TCPStore",
    "eval",
    "exec",
    # 140: clocks that jump must not decide how long something waits.
    "time.time",
    "datetime.utcnow",
}


def _names(source: str) -> set[str]:
    """Return modules imported and names used, dotted as far as they are written."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(ast.unparse(node))
    return found


@pytest.mark.parametrize("name", sorted(FORBIDDEN))
def test_the_rule_is_noticed_when_it_is_broken(name):
    module, _, last = name.rpartition(".")
    broken = f"from {module} import {last}" if module else f"import {last}"
    assert name in _names(broken) & FORBIDDEN


def test_no_source_breaks_a_rule():
    assert len(SOURCES) > 100
    broken = {
        str(path.relative_to(SOURCES[0].parent)): names
        for path in SOURCES
        if (names := _names(path.read_text("utf-8")) & FORBIDDEN)
    }
    assert broken == {}
