"""`llmsched trace`: look at trace files, convert them, and get the real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from llmsched.cli.command import print_json
from llmsched.cli.errors import OneLineErrors, keep_inputs
from llmsched.cli.fields import field_option

if TYPE_CHECKING:
    from llmsched.workload.describe import TraceSummary

F = TypeVar("F", bound=Callable[..., Any])


_SELECTION = (
    *("requests", "window_s", "model", "log_type", "failures"),
    *("trace_format", "time_unit", "columns"),
)
_AS_IT_IS = {"failures": "keep", "rps_scale": 1.0}  # files are shown and written as they are


def workload_options(*names: str) -> Callable[[F], F]:
    """A decorator that adds the options of these fields of `Workload`, and the seed."""

    def decorate(command: F) -> F:
        options = {name: field_option(f"workload.{name}") for name in names}
        seed = field_option("seed")
        seed.help = "Of a synthetic profile, and of the jitter."
        # click reads the list backwards: what stands last comes first in the help
        for name, option in reversed([*options.items(), ("seed", seed)]):
            option.name = name
            option.default = _AS_IT_IS.get(name, option.default)
            command.__dict__.setdefault("__click_params__", []).append(option)
        return command

    return decorate


class _Group(OneLineErrors, click.Group):
    """A group whose commands end input errors in one line."""


@click.group(cls=_Group)
def trace() -> None:
    """Look at trace files, convert them, get the real ones."""


@trace.command()
@click.argument("file")
@workload_options(*_SELECTION)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def info(file: str, as_json: bool, seed: int, **selection: Any) -> None:
    """Describe FILE, or a synthetic profile: rows, span, rate, burstiness, lengths, failures, ties.

    Example: llmsched trace info log.csv --columns arrival=created,prompt=n_in,output=n_out
    """
    import dataclasses

    from llmsched.workload.describe import describe
    from llmsched.workload.workload import Workload

    summary = describe(Workload(source=file, rps_scale=1.0, **selection).load(seed))
    for note in summary.notes if as_json else ():
        click.echo(f"Note: {note}", err=True)
    if as_json:
        print_json(dataclasses.asdict(summary))
    else:
        click.echo(table(summary))


@trace.command()
@click.argument("file")
@click.argument("out", type=click.Path(path_type=Path))
@workload_options(*_SELECTION, "rps_scale", "jitter_s")
@click.option("--to", "out_format", metavar="FORMAT", help="Format of OUT; by suffix.")
def convert(file: str, out: Path, out_format: str | None, seed: int, **rules: Any) -> None:
    """Write the chosen requests of FILE, or of a synthetic profile, to OUT in any of the formats.

    The suffix of OUT (.csv, .txt, .parquet, .pq or .jsonl) chooses what our own columns are written
    in, and nothing is lost; --to chooses another format. .gz or .zst after it compresses. OUT
    appears only when it is complete.

    Example: llmsched trace convert BurstGPT_1.csv day9.parquet --window 777600:864000
    """
    from llmsched.workload.formats.registry import check_trace_path, write_trace
    from llmsched.workload.workload import Workload

    check_trace_path(out, trace_format=out_format)
    keep_inputs([out])
    chosen = Workload(source=file, **rules).load(seed)
    written = write_trace(chosen, out, trace_format=out_format)
    for note in chosen.notes:
        click.echo(f"Note: {note}", err=True)
    for rule, count in chosen.left_out:
        click.echo(f"Left out: {count} ({rule})", err=True)
    click.echo(f"{out}: {len(chosen)} requests, format {written}", err=True)


@trace.command()
@click.argument("name")
@click.option("--url", help="Another address of the file, such as a mirror.")
@click.option("--sha256", metavar="HEX", help="Checksum, if the file at --url is another one.")
@click.option("--out", metavar="FOLDER", help="Where to keep it; by default the cache folder.")
def fetch(name: str, url: str | None, sha256: str | None, out: str | None) -> None:
    """Download the real trace NAME, check it, and print its path.

    NAME is burstgpt, burstgpt-without-fails-1 or burstgpt-without-fails-2. Run it again after a
    broken connection: it goes on from there.

    Example: llmsched trace info $(llmsched trace fetch burstgpt)
    """
    from llmsched.cli.progress import download_bar
    from llmsched.workload.fetch import FetchError, check_request, fetch as fetch_file

    check_request(name, url=url, sha256=sha256)
    try:
        with download_bar(name) as progress:
            path = fetch_file(name, url=url, sha256=sha256, folder=out, progress=progress)
    except FetchError as error:
        raise click.ClickException(str(error)) from error
    click.echo(path)


def table(summary: TraceSummary) -> str:
    """A trace summary as lines of text, units included."""
    lengths = []
    for title, tokens in (("prompt", summary.prompt_tokens), ("output", summary.output_tokens)):
        values = f"mean {tokens.mean:.1f}, p50 {tokens.p50:g}, p90 {tokens.p90:g}, "
        values += f"p95 {tokens.p95:g}, p99 {tokens.p99:g}, max {tokens.max}"
        lengths.append((f"{title} [tokens]", values))
    windows = f"median of {summary.burst_windows} windows of 20 min; 1 is Poisson, less is bursty"
    rows = [
        ("trace", summary.name),
        *([("read as", summary.read_as)] if summary.read_as else []),
        ("requests", str(summary.requests)),
        *_session_rows(summary),
        ("span [s]", f"{summary.span_s:g}"),
        ("mean rate [1/s]", figure(summary.arrival_rate_per_s)),
        ("CV of gaps", figure(summary.gap_cv)),
        ("burst shape", f"{figure(summary.burst_shape)} ({windows})"),
        *lengths,
        *_prefix_rows(summary),
        ("failures", f"{summary.failure_share:.2%} (no output tokens)"),
        ("tied stamps", f"{summary.tied_share:.2%}"),
        *(("left out", f"{count} ({rule})") for rule, count in summary.left_out),
        *(("note", note) for note in summary.notes),
    ]
    return "\n".join(f"{title:<18} {value}" for title, value in rows)


def _session_rows(summary: TraceSummary) -> list[tuple[str, str]]:
    if summary.sessions is None:
        return []
    turns = summary.requests / summary.sessions
    rows = [("sessions", f"{summary.sessions}, {turns:.3g} turns on average")]
    if summary.waiting_share:
        share = f"{summary.waiting_share:.2%} of the requests wait for an answer"
        pause = f"and then {figure(summary.think_mean_s)} s on average"
        rows += [("pauses", f"{share}, {pause}; the span is the shortest possible")]
    return rows


def _prefix_rows(summary: TraceSummary) -> list[tuple[str, str]]:
    if summary.shared_prefix_share is None:
        return []
    return [("shared prefixes", f"{summary.shared_prefix_share:.2%} of the pieces came before")]


def figure(value: float | None) -> str:
    """A figure with four digits, if there is one."""
    return "undefined" if value is None else f"{value:.4g}"
