"""The documents: every block runs as it is printed, every link leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from docs_blocks import ROOT, SHELL, Block, blocks, cells, output_of, put_samples

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ELSEWHERE = {"architecture.md"}  # its recipes are run by test_recipes
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def parts(page: Path) -> list[Block]:
    return list(blocks(page.read_text(encoding="utf-8")))


def runnable(page: Path) -> list[Block]:
    if page.name in ELSEWHERE:
        return []
    return [one for one in parts(page) if one.not_run is None and not one.title]


def anchors(page: Path) -> set[str]:
    """What a link may name on a page, as mkdocs and GitHub make it of a heading."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    found = set()
    for heading in re.findall(r"^#+ (.+)$", text, flags=re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        found.add(re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", plain)).strip("-"))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where blocks run, with the files that they name."""
    there = tmp_path_factory.mktemp("reader")
    put_samples(there)
    return there


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(one.kind == "python" for one in runnable(page))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # notes on extrapolation
def test_python__of_a_page_runs_from_its_top(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    names: dict[str, object] = {"__name__": "reader"}
    for one in runnable(page):
        if one.kind == "python":
            exec(compile("\n" * one.line + one.text, str(page), "exec"), names)
    assert len(names) > 2  # its blocks ran: they left names behind, beside those of Python


COMMANDS = {
    f"{page.relative_to(ROOT)}:{one.line}:{number}": command
    for page in PAGES
    for one in runnable(page)
    for number, command in enumerate(one.commands())
}


@pytest.mark.parametrize(
    "place",
    [
        pytest.param(place, marks=[pytest.mark.slow] * place.startswith("docs/gallery"))
        for place in COMMANDS
    ],
)
def test_command__runs_as_printed(place, folder):
    command = COMMANDS[place]
    printed = output_of(command, folder)  # or it raises what the command said
    assert printed.strip() or (folder / command[-1]).is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links__lead_to_files_and_headings_that_are_there(page):
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    for target in LINK.findall(text):
        path, _, anchor = target.partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        there = page.parent / path if path else page
        assert there.is_file(), f"{target}: there is no such file"
        if anchor:
            assert anchor in anchors(there), f"{target}: there is no such heading"


def test_reason__stands_behind_every_block_that_is_not_run():
    found = [one for page in PAGES for one in parts(page) if one.not_run is not None]
    assert found
    assert all(len(one.not_run or "") > 3 for one in found)


def test_block__of_the_shell_says_what_would_not_be_run():
    page = "```sh\nllmsched list gpus && echo done\n```\n"
    with pytest.raises(ValueError, match="echo done"):
        next(blocks(page)).commands()
    hidden = next(blocks(f"<!-- not run: a reason -->\n{page}"))
    assert hidden.not_run == "a reason"
    assert hidden.kind in SHELL


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.stem)
@pytest.mark.filterwarnings("ignore::UserWarning")  # notes on extrapolation
def test_example__runs_from_its_first_cell_to_its_last(script, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    text = script.read_text(encoding="utf-8")
    names: dict[str, object] = {"__name__": "reader"}
    parts = list(cells(text))
    assert {markdown for markdown, _ in parts} == {True, False}
    for markdown, code in parts:
        if not markdown:
            exec(compile(code, str(script), "exec"), names)
    assert "requests" in capsys.readouterr().out


def test_menu__names_pages_that_are_there():
    hooks = (ROOT / "docs" / "site_hooks.py").read_text(encoding="utf-8")
    beside_data = dict(re.findall(r'"([\w/-]+\.md)": "([\w/.-]+)"', hooks))
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    named = re.findall(r"[\w/.-]+\.md", menu)
    assert len(named) > 20
    for page in named:
        source = beside_data.get(page, f"docs/{page}")
        if page.startswith("examples/"):
            source = page.replace(".md", ".py")
        assert (ROOT / source).is_file(), page
