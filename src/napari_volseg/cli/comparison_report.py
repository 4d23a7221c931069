"""A comparison as a page that needs nothing beside it, or as a picture of curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from napari_volseg.charts import line_chart
from napari_volseg.comparison import RunFacts, differing_settings
from napari_volseg.errors import DataError
from napari_volseg.io import atomic_path, write_text

__all__ = ["write_curves", "write_report"]

_CURVES = {
    "loss": "training loss",
    "val_loss": "loss on held-out voxels",
    "score": "F1 on held-out voxels",
}
_COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2",
            "#be185d", "#4d7c0f")  # fmt: skip

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1100px;
       padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0 2rem; }
td, th { border-bottom: 1px solid #8884; padding: .3rem .8rem; text-align: left; }
.cards { display: flex; flex-wrap: wrap; gap: 1rem; }
.card { border: 1px solid #8884; border-radius: 8px; padding: .8rem; width: 460px; }
svg { width: 100%; } svg text { fill: currentColor; font-size: 11px; }
.grid { stroke: #8884; } polyline { fill: none; stroke-width: 1.6; }
.legend span { margin-right: 1rem; } .quiet { opacity: .6; }
.legend i { display: inline-block; height: 3px; margin-right: .3rem; width: 14px;
            vertical-align: middle; }
"""


def write_report(
    path: Path, runs: Sequence[RunFacts], rows: Sequence[Sequence[str]]
) -> None:
    """Write tables and curves as one HTML file.

    Parameters
    ----------
    rows
        What is compared: a heading and one text for each run.

    Raises
    ------
    DataError
        If it cannot be written.
    """
    names = [run.name for run in runs]
    settings = [[k, *map(str, v)] for k, v in differing_settings(runs).items()]
    charts = "".join(
        line_chart(title, _series(runs, key), "step") for key, title in _CURVES.items()
    )
    colours = "".join(
        f"polyline.s{i} {{ stroke: {colour}; }} i.s{i} {{ background: {colour}; }}\n"
        for i, colour in enumerate(_COLOURS)
    )
    write_text(
        path,
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<title>volseg compare</title><style>{_STYLE}{colours}</style></head><body>"
        f"<h1>{escape(', '.join(names))}</h1>"
        f"<p>Differences in brackets are to {escape(names[0])}.</p>"
        f"{_table(['', *names], rows)}<div class='cards'>{charts}</div>"
        "<h2>Settings that differ</h2>"
        f"{_table(['setting', *names], settings) if settings else '<p>none</p>'}"
        "</body></html>\n",
    )


def write_curves(
    path: Path, runs: Sequence[RunFacts], rows: Sequence[Sequence[str]]
) -> None:
    """Write the curves as a PNG.

    Raises
    ------
    DataError
        If Matplotlib is not installed, or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise DataError(
            'curves as PNG need Matplotlib: run "pip install '
            "'napari-volseg[plots]'\", or write a report.html"
        ) from None
    figure = Figure(figsize=(15, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(1, len(_CURVES))
    for axes, (key, title) in zip(all_axes, _CURVES.items(), strict=True):
        for i, (name, points) in enumerate(_series(runs, key).items()):
            x, y = zip(*points, strict=True)
            axes.plot(x, y, color=_COLOURS[i % len(_COLOURS)], label=name)
            axes.legend(frameon=False)
        axes.set(title=title, xlabel="step")
        axes.set_ylim(bottom=0)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _series(
    runs: Sequence[RunFacts], key: str
) -> Mapping[str, Sequence[tuple[float, float]]]:
    """Return the curve of each run that has one; equal names are numbered."""
    found: dict[str, Sequence[tuple[float, float]]] = {}
    for i, run in enumerate(runs, start=1):
        name = f"{run.name} ({i})" if run.name in found else run.name
        if points := getattr(run.curves, key):
            found[name] = points
    return found


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in headings)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in row)}</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"
