"""A layout: which columns a kind of trace file has, and what they mean.

Layouts say nothing of separators, JSON or Parquet: any of them may stand in any of the three. So
a new public format is one `Layout` and one line in `registry`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from llmsched.workload.formats.clocks import Clock, NumberClock, Unit
from llmsched.workload.formats.encodings.cells import shown
from llmsched.workload.formats.encodings.columns import ColumnBuilder
from llmsched.workload.formats.encodings.files import Place, TraceFile

Names = tuple[str, ...]
REQUIRED = ("time", "prompt", "output")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The columns of one kind of trace file.

    Parameters
    ----------
    name : str
        What `--trace-format` calls it.
    columns : mapping from role to names
        Accepted names of each role (see `cells.KINDS`); the first is the one written. A name of a
        nested JSON object has dots: `usage.prompt_tokens`.
    unit : {"s", "ms", "us", "ns"}, optional
        Of numbers in the time column; None where only the file or the user can say.
    marks : tuple of str
        Further columns by which it is recognised: at least one must be there.
    asked_for : bool
        Whether nothing tells it from another layout, so that it must be asked for.
    whole_times : bool
        Whether its times are whole numbers: with fractions the unit is asked for.
    optional : collection of roles
        Columns, or cells of them, that may be missing, beside those that are not `required`.
    required : tuple of roles
        Columns without which a file is not of this layout.
    deltas : bool
        Whether later turns of a session give only what is new in their prompts.
    tokens_per_id : tuple of int
        Tokens of a prompt that a prefix id may stand for, the usual number first; empty where a
        column says it.
    adjust : callable, optional
        Arithmetic on the raw columns before they become a trace.
    expand : callable, optional
        Makes rows of one JSON object, for layouts that hold several requests in one.
    clock : Clock, optional
        How its times are written; None for what is only read.
    written : {"csv", "jsonl", "parquet"}
        What it is written as.
    order : sequence of roles
        Of the columns, when writing.
    constants : mapping from name to value
        Further columns that are written: a value, "row" for the number of the request, or "total"
        for its prompt and output together.
    """

    name: str
    columns: Mapping[str, Names]
    unit: Unit | None = None
    marks: Names = ()
    asked_for: bool = False
    whole_times: bool = False
    optional: Collection[str] = ()
    required: Names = REQUIRED
    deltas: bool = False
    tokens_per_id: tuple[int, ...] = ()
    adjust: Callable[[ColumnBuilder, TraceFile], None] | None = None
    expand: Callable[[dict[str, Any]], list[dict[str, Any]]] | None = None
    clock: Clock | None = None
    written: Literal["csv", "jsonl", "parquet"] = "csv"
    order: Sequence[str] = ()
    constants: Mapping[str, object] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """What a file must have, for messages and help."""
        parts = [" or ".join(self.columns[role]) for role in self.required]
        return f"{', '.join(parts)}{', ' + ' or '.join(self.marks) if self.marks else ''}"

    def missing(self, names: Collection[str]) -> list[str]:
        """The required columns that a file with these ones lacks."""
        lacking = [self.columns[role] for role in self.required]
        lacking += [self.marks] if self.marks else []
        return [" or ".join(one_of) for one_of in lacking if not set(one_of) & set(names)]

    def fits(self, names: Collection[str]) -> bool:
        """Whether a file with these columns may be of this layout."""
        return not self.asked_for and not self.missing(names)

    def find(self, names: Sequence[str], file: TraceFile, header: Place) -> dict[str, str]:
        """The column of each role in a file with these columns, which `header` holds.

        Raises
        ------
        TraceError
            If a required one is missing, or one is there twice.
        """
        if lacking := [
            " or ".join(self.columns[role])
            for role in self.required
            if not set(self.columns[role]) & set(names)
        ]:
            message = f"must name the column {lacking[0]!r} of the {self.name} format"
            raise file.error(f"{message}, got {shown(', '.join(names))}", **header)
        if self.expand is not None:
            return {role: accepted[0] for role, accepted in self.columns.items()}
        found = {}
        for role, accepted in self.columns.items():
            name = next((name for name in accepted if name in names), None)
            if name is None:
                continue
            if list(names).count(name) > 1:
                raise file.error("must stand once in the header", **header, column=name)
            found[role] = name
        return found

    @property
    def writable(self) -> bool:
        """Whether it can be written."""
        return self.clock is not None


OURS = {
    "time": ("arrival_s",),
    "prompt": ("prompt_tokens", "input_tokens"),
    "output": ("output_tokens",),
    "model": ("model",),
    "log_type": ("log_type",),
    "service_s": ("service_s",),
    "priority": ("priority",),
    "prefix_ids": ("prefix_ids",),
    "tokens_per_id": ("tokens_per_id",),
    "after": ("after",),
    "think_s": ("think_s",),
}


def ours(written: Literal["csv", "jsonl", "parquet"]) -> Layout:
    """Our own columns, every one of a `Trace`: nothing is lost in them."""
    return Layout(
        name=written,
        columns=OURS,
        unit="s",
        optional=("think_s", "prefix_ids"),
        clock=NumberClock(),
        written=written,
    )
