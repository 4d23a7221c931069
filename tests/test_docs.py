"""The documentation says what the code does."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import pytest

from napari_volseg.cli.main import build_parser
from napari_volseg.config import (
    apply_overrides,
    build_config,
    load_config,
    preset_names,
)
from napari_volseg.sweeps import parse_space
from napari_volseg.sweeps.space import yaml_text

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
    """Every `volseg` command of the pages, in shell blocks and inside sentences."""
    found = []
    for page in PAGES:
        text = page.read_text("utf-8")
        blocks = re.findall(r"```bash\n(.*?)```", text, re.S)
        lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
        lines += re.findall(r"`(volseg [^`]+)`", text)
        for line in lines:
            words = shlex.split(line, comments=True)
            if words and words[0] == "volseg" and words[1:] != ["--help"]:
                found.append((f"{page.name}: {line.strip()}", words[1:]))
    return found


@pytest.mark.parametrize(
    ("where", "words"), _commands(), ids=[where for where, _ in _commands()]
)
def test_commands_parse_and_their_settings_exist(where: str, words: list[str]) -> None:
    arguments, settings = build_parser().parse_known_args(words)
    assert all("=" in word and not word.startswith("-") for word in settings)
    if words[0] in ("train", "config"):
        name = arguments.target if words[0] == "train" else arguments.name
        if name in preset_names():
            load_config(name, settings)
            return
    space, fixed = parse_space(settings) if words[0] == "sweep" else ({}, settings)
    build_config(apply_overrides({}, fixed), where=where)
    for key, values in space.items():
        for value in values.ends():
            build_config(apply_overrides({}, [f"{key}={yaml_text(value)}"]), where)


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
