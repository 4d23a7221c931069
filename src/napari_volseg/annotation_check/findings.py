"""What a check found: kind, place, size, a sentence and what would mend it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

__all__ = [
    "KINDS",
    "Finding",
    "Kind",
    "Severity",
    "count_voxels",
    "sort_findings",
    "summary_words",
]

Kind = Literal[
    "shape",
    "misaligned",
    "shifted",
    "duplicate",
    "blank",
    "saturated",
    "missing",
    "split",
    "fragment",
    "hole",
    "gap",
    "border",
]
Severity = Literal["error", "warning", "info"]

KINDS: Mapping[Kind, tuple[str, str]] = {
    "shape": ("shape that does not fit", "shapes that do not fit"),
    "misaligned": ("misaligned volume", "misaligned volumes"),
    "shifted": ("shifted slice", "shifted slices"),
    "duplicate": ("duplicated slice", "duplicated slices"),
    "blank": ("blank slice", "blank slices"),
    "saturated": ("saturated part", "saturated parts"),
    "missing": ("missing slice of an object", "missing slices of objects"),
    "split": ("id in two pieces", "ids in two pieces"),
    "fragment": ("tiny fragment", "tiny fragments"),
    "hole": ("hole in an object", "holes in objects"),
    "gap": ("gap between objects", "gaps between objects"),
    "border": ("object cut by a face", "objects cut by a face"),
}
"""Every kind with its words for one and for many, the most serious first."""

_SEVERITIES = get_args(Severity)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that an annotator should look at."""

    kind: Kind
    severity: Severity
    """``error``: training would learn something wrong; ``warning``: it probably
    would; ``info``: worth knowing, often as it should be."""
    label: int
    """The id it concerns; 0 when it concerns none."""
    position: tuple[int, int, int]
    """A voxel (z, y, x) to look at; inside the piece where there is one."""
    size: int
    """Voxels."""
    message: str
    """What is wrong, as a sentence without its full stop."""
    fix: str = ""
    """What would mend it, as an imperative; empty when only a person can."""
    new_label: int | None = None
    """The id that the fix gives those voxels."""


def sort_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings in a fixed order: serious first, then by kind and size."""
    kinds = list(KINDS)
    return sorted(
        findings,
        key=lambda f: (
            _SEVERITIES.index(f.severity),
            kinds.index(f.kind),
            -f.size,
            f.label,
            f.position,
        ),
    )


def summary_words(findings: Iterable[Finding]) -> str:
    """Return how many of each kind there are, without those that only inform."""
    counts = Counter(f.kind for f in findings if f.severity != "info")
    parts = [
        f"{counts[kind]} {one if counts[kind] == 1 else many}"
        for kind, (one, many) in KINDS.items()
        if counts[kind]
    ]
    return ", ".join(parts) if parts else "nothing to mend"


def count_voxels(n: int) -> str:
    """Return a number of voxels in words."""
    return f"{n} voxel" if n == 1 else f"{n} voxels"
