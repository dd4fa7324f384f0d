"""docs/architecture.md and docs/invariants.md: recipes are done to a copy, names are looked up."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_faults import FAULTS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
SECTIONS = [section.split("\n", 1) for section in PAGE.split("\n### ")[1:]]
RECIPES = {title: body for title, body in SECTIONS}  # noqa: C416 (dict() refuses lists)
SETTINGS = ("experiments/multibin/settings", "experiments/dynamic/settings")
BLOCK = re.compile(r'```(\w+)(?: title="([^"]+)")?\n(.*?)```', re.S)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source with every recipe done to it, one after the other."""
    top = tmp_path_factory.mktemp("house")
    for folder in ("src", "calibration", "workloads", *SETTINGS):
        ignored = shutil.ignore_patterns("__pycache__", "*.png", "*.md")
        shutil.copytree(ROOT / folder, top / folder, ignore=ignored)
    for body in RECIPES.values():
        for kind, title, text in BLOCK.findall(body):
            if kind != "sh":
                edit(top / title, kind, text)
    return top


def edit(path: Path, kind: str, text: str) -> None:
    """A new file, an entry at the end of a table that is there, or lines put in by context."""
    if kind == "toml" and path.exists():
        path.write_text(f"{path.read_text(encoding='utf-8')}\n{text}", encoding="utf-8")
    elif kind != "diff":
        assert not path.exists(), f"{path} is there already"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    else:
        lines = text.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] == " ")
        after = "".join(line[1:] if line.strip() else line for line in lines)
        source = path.read_text(encoding="utf-8")
        assert source.count(before) == 1, f"{path} must hold once:\n{before}"
        path.write_text(source.replace(before, after), encoding="utf-8")


def test_page__has_a_recipe_for_every_row() -> None:
    table = PAGE.split("## Where do I add")[1].split("\n\n")[1]
    linked = re.findall(r"\| \[([^\]]+)\]\(#([^)]+)\)", table)
    assert len(linked) == table.count("\n") - 1
    anchors = [title.lower().replace(" ", "-") for title in RECIPES]
    assert [anchor for _, anchor in linked] == anchors


def test_page__names_files_that_are_there() -> None:
    for name in re.findall(r"`((?:src|tests|examples|docs)/[^`]+)`", PAGE):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("title", RECIPES)
def test_recipe__runs_as_printed(house: Path, title: str, tmp_path: Path) -> None:
    commands = [text for kind, _, text in BLOCK.findall(RECIPES[title]) if kind == "sh"]
    assert commands, title
    script = tmp_path / "recipe.sh"
    here = f'llmsched() {{ "{sys.executable}" -m llmsched "$@"; }}; set -e\n'
    python = f'python() {{ "{sys.executable}" "$@"; }}\n'
    script.write_text(here + python + commands[0], encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(house / "src")}
    done = subprocess.run(
        ["bash", str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("name", "at_least"), [("invariants", 25), ("guarantees", 15)])
def test_page_of_promises__names_tests_that_are_there(name: str, at_least: int) -> None:
    page = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+)`", page)
    written = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("tests/**/test_*.py"))
    assert len(named) > at_least
    assert [name for name in named if f"def {name}(" not in written] == []


def test_guarantees__name_faults_that_are_there_and_have_a_promise_each_line() -> None:
    page = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    assert set(re.findall(r'"([^"]+)"', page)) <= {fault.name for fault in FAULTS}
    rows = [line for line in page.splitlines() if re.match(r"\| [A-Z`0-9]", line)]
    assert len(rows) > 30
    assert [row for row in rows if not re.search(r'"[^"]+"|`test_', row.split("|")[-2])] == []
