"""Shared prefixes listed request by request: a CSV beside a trace, turned into prefix ids.

Each row says that a request begins with the same tokens as an earlier one, for so many blocks.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from dataclasses import replace

from llmsched.workload.formats.encodings.files import TraceFile, open_trace_file
from llmsched.workload.prefixes.prefix_ids import PrefixIds
from llmsched.workload.trace import Trace

COLUMNS = ("request", "earlier_request", "shared_blocks")


def with_shared_prefixes(
    trace: Trace, path: str | os.PathLike[str], *, block_tokens: int = 16
) -> Trace:
    """The trace with prefix ids of `block_tokens` tokens each, from a CSV of shared prefixes.

    Parameters
    ----------
    trace : Trace
    path
        CSV with the columns `request` and `earlier_request` (rows of the trace, from 0) and
        `shared_blocks`, the blocks in which their prompts agree from the first token on.
    block_tokens : int
        Tokens of a block in that file.

    Raises
    ------
    TraceError
        If a cell is not a whole number, a request is not in the trace or not after the other, or
        one of the two prompts is shorter than what they share; with the line.
    """
    file = open_trace_file(path)
    n = len(trace)
    blocks = (trace.prompt_tokens // block_tokens).tolist()
    ids: dict[int, list[int]] = {}
    fresh = 0
    for line, (request, earlier, shared) in sorted(_rows(file), key=lambda row: row[1]):
        if not 0 <= earlier < request < n:
            raise file.error(
                f"must name two requests of the trace, 0 <= earlier_request < request < {n}, "
                f"got {earlier} and {request}",
                line=line,
            )
        if not 1 <= shared <= min(blocks[request], blocks[earlier]):
            most = min(blocks[request], blocks[earlier])
            raise file.error(
                f"shared_blocks must be from 1 to the {most} full blocks of the shorter prompt, "
                f"got {shared}; check block_tokens, now {block_tokens}",
                line=line,
            )
        for one in (earlier, request):
            have = ids.setdefault(one, [])
            missing = shared - len(have)
            have.extend(range(fresh, fresh + missing))
            fresh += max(missing, 0)
        ids[request][:shared] = ids[earlier][:shared]
    rows = [ids.get(request, []) for request in range(n)]
    return replace(trace, prefix_ids=PrefixIds.of(rows, tokens_per_id=block_tokens))


def _rows(file: TraceFile) -> Iterator[tuple[int, tuple[int, int, int]]]:
    """Line and numbers of each row."""
    reader = csv.DictReader(text for _, text in file.lines())
    if lacking := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
        raise file.error(f"must name the columns {', '.join(COLUMNS)}", line=1, column=lacking[0])
    for row in reader:
        numbers = []
        for name in COLUMNS:
            text = row[name] or ""
            if not (text.isascii() and text.strip().isdecimal() and len(text) <= 19):
                given = f"must be a whole number >= 0, got {text!r}"
                raise file.error(given, line=reader.line_num, column=name)
            numbers.append(int(text))
        yield reader.line_num, (numbers[0], numbers[1], numbers[2])
