"""Hooks of the documentation site: what pages show of the program is made when the site is built.

`<!-- output -->` behind a shell block becomes what its last command prints, `<!-- output: 12 -->`
the first 12 lines of that, and `<!-- table: NAME -->` one of `TABLES`. Reports and pages that live
beside their data become pages of the site, and links to files outside of it the files' names.
"""

from __future__ import annotations

import io
import posixpath
import re
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import chdir, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))
from docs_blocks import ROOT, blocks, cells, output_of, put_samples

# page of the site -> file of the repository
BESIDE_DATA = {
    "studies/multi-bin-paper.md": "experiments/multibin/REPORT.md",
    "studies/stress-plan.md": "experiments/stress/README.md",
    "studies/published-values.md": "experiments/stress/PUBLISHED.md",
    "studies/measured-gpu.md": "experiments/stress/MEASURED.md",
    "studies/optimal-edges.md": "experiments/optimal_edges/README.md",
    "studies/deadline-window.md": "experiments/deadline_window/README.md",
    "studies/deadline-window-results.md": "experiments/deadline_window/RESULTS.md",
    "studies/latency-forms.md": "calibration/FORMS.md",
    "studies/physics.md": "calibration/PHYSICS.md",
    "reference/calibration.md": "calibration/README.md",
    "reference/profiles.md": "workloads/README.md",
    "reference/real-traces.md": "workloads/REAL_TRACES.md",
    "reference/changelog.md": "CHANGELOG.md",
}
_OUTPUT = re.compile(r"\s*<!-- output(?:: (\d+))? -->")
_TABLE = re.compile(r"<!-- table: ([\w-]+) -->")
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_REMOTE = re.compile(r"""<(?:script|link|img|iframe)[^>]+(?:src|href)=["']?(?:https?:)?//""")


EXAMPLES = {
    f"examples/{name}.md": f"examples/{name}.py"
    for name in ("size_a_cluster", "own_scheduler", "read_a_run")
}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages beside their data with their pictures, and put every page into the menu."""
    for place, source in BESIDE_DATA.items():
        if not (ROOT / source).is_file():
            continue
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    for picture in _pictures_beside_data(files):
        uri = f"pictures/{picture.relative_to(ROOT).as_posix()}"
        files.append(File.generated(config, uri, abs_src_path=str(picture)))
    for place, source in EXAMPLES.items():
        script = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, place, content=page_of_example(script, source)))
    listed = set(re.findall(r"[\w./-]+\.md", str(config["nav"])))
    more = [f.src_uri for f in files.documentation_pages() if f.src_uri not in listed]
    if more:
        config["nav"].append({"More": sorted(more)})
    return files


def _pictures_beside_data(files: Files) -> set[Path]:
    """The pictures that pages show and that lie outside of the documents."""
    docs, found = ROOT / "docs", set()
    for page in files.documentation_pages():
        source = Path(page.abs_src_path or "")
        for mark, _, target in _LINK.findall(page.content_string):
            picture = (source.parent / target).resolve()
            if mark and picture.is_file() and not picture.is_relative_to(docs):
                found.add(picture)
    return found


def on_page_markdown(markdown: str, *, page: Any, files: Files, **_more: Any) -> str:
    """Outputs, tables, and links that lead somewhere on the site."""
    place = page.file.src_uri
    source = BESIDE_DATA.get(place, posixpath.join("docs", place))
    text = _TABLE.sub(lambda found: TABLES[found[1]](), _with_outputs(markdown))
    if place in BESIDE_DATA:
        text = re.sub(r"(?<=[\]\w]) ?\[(?=[a-z/]+\])", r" \\[", text)  # a unit, no link
    return _with_links(text, source, place, files)


def on_post_build(config: Any) -> None:
    """Fail if a page needs the network."""
    for path in Path(config["site_dir"]).rglob("*.html"):
        found = _REMOTE.search(path.read_text(encoding="utf-8"))
        if found and "rel=canonical" not in found[0]:
            raise SystemExit(f"{path}: must work without a network, has {found[0]}...")


def _with_outputs(page: str) -> str:
    """The page with what commands print in place of the marks."""
    parts, start = [], 0
    for block in blocks(page):
        mark = _OUTPUT.match(page, block.end)
        if mark is None:
            continue
        text = _printed(tuple(block.commands()[-1])).rstrip()
        lines = text.splitlines()
        if mark[1] and len(lines) > int(mark[1]):
            text = "\n".join([*lines[: int(mark[1])], "..."])
        parts += [page[start : block.end], f"\n\n```text\n{text}\n```\n"]
        start = mark.end()
    return "".join([*parts, page[start:]])


def page_of_example(script: str, source: str) -> str:
    """A script with cells as a page, each cell with what it prints."""
    parts, names = [], {"__name__": "example"}
    with tempfile.TemporaryDirectory() as folder, chdir(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        put_samples(Path(folder))
        for markdown, text in cells(script):
            if markdown:
                parts.append(text)
                continue
            printed = io.StringIO()
            with redirect_stdout(printed):
                exec(compile(text, source, "exec"), names)
            parts.append(f"```python\n{text}\n```")
            if printed.getvalue():
                parts.append(f"```text\n{printed.getvalue().rstrip()}\n```")
    title, *rest = parts
    return "\n\n".join([title, f"The script is `{source}`.", *rest])


@cache
def _printed(arguments: tuple[str, ...]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        put_samples(Path(folder))
        return output_of(list(arguments), Path(folder))


def _with_links(page: str, source: str, place: str, files: Files) -> str:
    """Links to the repository's files as the site has them; of what it does not have the names."""
    sites = {posixpath.join("docs", f.src_uri): f.src_uri for f in files}
    sites |= {Path(f.abs_src_path).relative_to(ROOT).as_posix(): f.src_uri for f in _own(files)}
    here = posixpath.dirname(place) or "."

    def moved(link: re.Match[str]) -> str:
        picture, text, target = link.groups()
        path, mark, anchor = target.partition("#")
        if not path or "://" in target or target.startswith("mailto:"):
            return link[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if file in sites:
            return f"{picture}[{text}]({posixpath.relpath(sites[file], here)}{mark}{anchor})"
        if picture:
            return link[0]  # which is not there: mkdocs says so
        return f"`{file}`" if text.strip("`") == path else f"{text} (`{file}`)"

    return _LINK.sub(moved, page)


def _own(files: Files) -> list[File]:
    """The files that come from this repository."""
    return [f for f in files if f.abs_src_path and Path(f.abs_src_path).is_relative_to(ROOT)]


def _cli() -> str:
    """Every command with its help."""
    import click

    from llmsched.cli.main import main

    def commands(group: click.Group, name: str) -> list[tuple[str, click.Command]]:
        context = click.Context(group, info_name=name)
        found: list[tuple[str, click.Command]] = []
        for short in group.list_commands(context):
            command = group.get_command(context, short)
            assert command is not None
            found.append((f"{name} {short}", command))
            if isinstance(command, click.Group):
                found += commands(command, f"{name} {short}")
        return found

    parts = []
    for name, _command in commands(main, "llmsched"):
        shown = output_of([*name.split()[1:], "--help"], ROOT).rstrip()
        parts.append(f"## {name}\n\n```text\n{shown}\n```\n")
    return "\n".join(parts)


def _metrics() -> str:
    """Every figure of merit, from the registry."""
    from llmsched.metrics.registry import METRICS

    rows = ["| name | title | unit | better | definition |", "|---|---|---|---|---|"]
    for name, one in METRICS.items():
        rows.append(
            f"| `{name}` | {one.title} | {one.unit} | {one.better or ''} | {one.definition} |"
        )
    return "\n".join(rows)


def _names(what: str) -> str:
    """The names that an option takes, as a table."""
    from llmsched.cli.commands.list import LISTS

    rows = [f"| `{name}` | {text.replace('[', '&#91;')} |" for name, text in LISTS[what]()]
    return "\n".join(["| name | what it is |", "|---|---|", *rows])


TABLES: dict[str, Callable[[], str]] = {
    "cli": _cli,
    "metrics": _metrics,
    "gpus": lambda: _names("gpus"),
    "models": lambda: _names("models"),
    "latency": lambda: _names("latency"),
    "predictors": lambda: _names("predictors"),
    "routers": lambda: _names("routers"),
}
