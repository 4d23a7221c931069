"""The documentation says what the code does."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import pytest
import yaml

from napari_volseg.config import apply_overrides, build_config, load_config

ROOT = Path(__file__).parents[1]
PAGES = [
    page
    for page in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
    if "demo-output" not in page.parts
]


def test_every_setting_is_documented_as_it_is() -> None:
    make = runpy.run_path(str(ROOT / "docs" / "make_configuration.py"))
    page = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    assert page == make["render"](), "run 'make docs'"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8"))
    missing = [
        link
        for link in links
        if not link.startswith(("http", "mailto:"))
        and not (page.parent / link).exists()
    ]
    assert not missing


def _commands() -> list[tuple[str, list[str]]]:
    """Every `volseg …` line of a shell block, with continuation lines joined."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text("utf-8"), re.S):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words and words[0] == "volseg":
                    found.append((f"{page.name}: {line.strip()}", words[1:]))
    return found


@pytest.mark.parametrize(
    ("where", "words"), _commands(), ids=[where for where, _ in _commands()]
)
def test_commands_parse_and_their_settings_exist(where: str, words: list[str]) -> None:
    from napari_volseg.cli import build_parser

    arguments = build_parser().parse_args(words)
    settings = [word for word in words if re.match(r"[a-z_.]+=", word)]
    preset = getattr(arguments, "config", None)
    tree = {} if preset is None else yaml.safe_load(_resolve(preset))
    build_config(apply_overrides(tree, settings), where=where)


def _resolve(preset: str) -> str:
    from napari_volseg.config import dump_config

    is_path = "/" in preset or preset.endswith(".yaml")
    return "{}" if is_path else dump_config(load_config(preset))


def test_make_knows_the_targets_that_the_readme_names() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    named = set(re.findall(r"^make (\w+)", readme, re.M))
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert {"demo", "test"} <= named
    assert named <= set(re.findall(r"^(\w+):", makefile, re.M))


def test_every_decision_is_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = set(re.findall(r"\]\((\d{4}-[^)]+)\)", (folder / "README.md").read_text()))
    assert listed == {page.name for page in folder.glob("[0-9]*.md")}
