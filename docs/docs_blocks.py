"""The fenced blocks of the documents, and how their commands are run: for the tests and the site.

A line that begins with `llmsched` in a `sh` or `console` block is run as it is printed; a comment
`<!-- not run: reason -->` above the block says why it is not.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(
    r"^(?P<indent> *)```(?P<kind>\w*)(?P<more>[^\n]*)\n(?P<text>.*?)^(?P=indent)```[ ]*$",
    re.S | re.M,
)
_NOT_RUN = re.compile(r"<!-- not run: (.+?) -->\s*$")
SHELL = ("sh", "console", "bash")


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced block of a page."""

    kind: str
    text: str
    title: str  # what stands behind the kind, such as title="..."
    line: int
    end: int  # offset behind it in the page
    not_run: str | None  # the reason

    def commands(self) -> list[list[str]]:
        """The `llmsched` commands of a shell block, each as its arguments.

        Raises
        ------
        ValueError
            If a line beside them is no comment: it would not be run.
        """
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.kind not in SHELL or not any(line.startswith("llmsched ") for line in lines):
            return []
        found = []
        for line in lines:
            for command in line.split("&&"):
                words = shlex.split(command, comments=True)
                if words and words[0] != "llmsched":
                    raise ValueError(f"{line!r} must be a block of its own, or marked as not run")
                found += [words[1:]] if words else []
        return found


def blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    for found in _BLOCK.finditer(page):
        above = _NOT_RUN.search(page[: found.start()])
        yield Block(
            kind=found["kind"],
            text=found["text"],
            title=found["more"].strip(),
            line=page.count("\n", 0, found.start()) + 1,
            end=found.end(),
            not_run=above[1] if above else None,
        )


def cells(script: str) -> Iterator[tuple[bool, str]]:
    """The cells of a script in the percent format: whether it is Markdown, and its text."""
    for cell in re.split(r"^# %%", script, flags=re.M)[1:]:
        kind, _, text = cell.partition("\n")
        markdown = "[markdown]" in kind
        if markdown:
            text = re.sub(r"^# ?", "", text, flags=re.M)
        yield markdown, text.strip("\n")


def output_of(arguments: list[str], folder: Path) -> str:
    """What a command prints on standard output, run in a folder.

    Raises
    ------
    RuntimeError
        If it fails, with what it said.
    """
    from click.testing import CliRunner

    from llmsched.cli.main import main

    with chdir(folder):
        done = CliRunner().invoke(main, arguments, prog_name="llmsched")
    if done.exit_code:
        line = shlex.join(["llmsched", *arguments])
        raise RuntimeError(f"{line} ended with {done.exit_code}: {done.stderr}{done.exception!r}")
    return done.stdout


def put_samples(folder: Path) -> None:
    """Put the files that the documents name into a folder, small and synthetic."""
    from llmsched import Workload, write_trace

    trace = Workload(source="burstgpt-like", requests=300, failures="keep").load(seed=1)
    write_trace(trace, folder / "BurstGPT_1.csv", trace_format="burstgpt")
    with warnings.catch_warnings(action="ignore"):  # Azure's columns hold no model
        write_trace(trace, folder / "AzureLLMInferenceTrace_conv.csv", trace_format="azure")
    log = Workload(source="poisson", requests=400, rps_scale=8.0).load(seed=1)
    rows = zip(log.arrival_s, log.prompt_tokens, log.output_tokens, strict=True)
    lines = [f"{t0:.3f};{n_in};{n_out}" for t0, n_in, n_out in rows]
    (folder / "log.csv").write_text("\n".join(["t0;n_in;n_out", *lines, ""]), encoding="utf-8")
    shutil.copy(ROOT / "calibration" / "cpu-tiny-qwen3.csv", folder / "grid.csv")


def draw(page: Path, figures: Path) -> None:
    """Run every command of a page, and put the pictures that they draw into a folder."""
    figures.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        put_samples(Path(folder))
        for block in blocks(page.read_text(encoding="utf-8")):
            for command in block.commands():
                output_of(command, Path(folder))
        for picture in Path(folder).glob("*.png"):
            shutil.copy(picture, figures / picture.name)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
