"""The layouts of public traces, one each; where each comes from is in `docs/formats.md`."""

from __future__ import annotations

from typing import Any

import numpy as np

from llmsched.workload.formats.clocks import NumberClock, StampClock
from llmsched.workload.formats.encodings.cells import MAX_TOKENS, CellError
from llmsched.workload.formats.encodings.columns import ColumnBuilder
from llmsched.workload.formats.encodings.files import TraceFile
from llmsched.workload.formats.layout import Layout

BURSTGPT = Layout(
    name="burstgpt",
    columns={
        "time": ("Timestamp",),
        "prompt": ("Request tokens",),
        "output": ("Response tokens",),
        "model": ("Model",),
        "log_type": ("Log Type",),
    },
    unit="s",
    clock=NumberClock(tidy=True),
    written="csv",
    order=("time", "model", "prompt", "output", "Total tokens", "log_type"),
    constants={"Total tokens": "total"},
)
AZURE = Layout(
    name="azure",
    columns={
        "time": ("TIMESTAMP",),
        "prompt": ("ContextTokens",),
        "output": ("GeneratedTokens",),
    },
    unit="s",
    clock=StampClock(),
)
_MOONCAKE = {
    "time": ("timestamp",),
    "prompt": ("input_length",),
    "output": ("output_length",),
    "prefix_ids": ("hash_ids",),
}
BAILIAN = Layout(
    name="bailian",
    columns={**_MOONCAKE, "id": ("chat_id",), "parent": ("parent_chat_id",)},
    marks=("chat_id",),
    unit="s",
    optional=("parent", "prefix_ids"),
    tokens_per_id=(16,),
)
AIPERF = Layout(
    name="aiperf",
    columns={
        **_MOONCAKE,
        "session": ("session_id",),
        "delay": ("delay",),
        "context": ("context_mode",),
    },
    marks=("session_id", "delay"),
    unit="ms",
    required=("prompt", "output"),
    optional=("time", "session", "delay", "context", "prefix_ids"),
    deltas=True,
    tokens_per_id=(512, 16),
)
MOONCAKE = Layout(
    name="mooncake",
    columns=_MOONCAKE,
    marks=("hash_ids",),
    unit="ms",
    optional=("prefix_ids",),
    tokens_per_id=(512, 16),
    whole_times=True,
    clock=NumberClock(unit="ms", whole=True),
    written="jsonl",
    constants={"hash_ids": []},
)
GUIDELLM = Layout(
    name="guidellm",
    columns=_MOONCAKE,
    asked_for=True,
    unit="s",
    optional=("prefix_ids",),
    tokens_per_id=(512, 16),
    clock=NumberClock(),
    written="jsonl",
)
VIDUR = Layout(
    name="vidur",
    columns={
        "time": ("arrived_at",),
        "prompt": ("num_prefill_tokens",),
        "output": ("num_decode_tokens",),
        "session": ("session_id",),
        "turn": ("session_turn_index",),
    },
    unit="s",
    optional=("session", "turn"),
    clock=NumberClock(),
)
SPLITWISE = Layout(
    name="splitwise-sim",
    columns={
        "time": ("arrival_timestamp",),
        "prompt": ("prompt_size",),
        "output": ("token_size",),
    },
    unit="s",
    clock=NumberClock(),
    constants={"request_id": "row", "request_type": 2, "application_id": 0, "batch_size": 1},
    order=("request_id", "request_type", "application_id", "time", "batch_size"),
)
SERVEGEN = Layout(
    name="servegen",
    columns={
        "time": ("timestamp",),
        "prompt": ("input_tokens",),
        "output": ("output_tokens",),
    },
    marks=("request_id",),
    unit="s",
    clock=NumberClock(),
    constants={"request_id": "row"},
    order=("request_id",),
)
OPENAI = Layout(
    name="openai",
    columns={
        "time": ("created", "created_at"),
        "prompt": ("usage.prompt_tokens", "usage.input_tokens"),
        "output": ("usage.completion_tokens", "usage.output_tokens"),
        "model": ("model",),
    },
    unit="s",
)


def _blis_columns(columns: ColumnBuilder, file: TraceFile) -> None:
    """Arrivals and prompts as BLIS itself replays them.

    A request is sent at `send_time_us` where that was recorded. Its prompt is what the server
    counted; behind a shared prefix it is the prefix and what follows it, as written.
    """
    arrival, sent = columns.take("time"), columns.take("sent")
    prompt, prefix = columns.take("prompt"), columns.take("prefix")
    grouped = columns.take("group") >= 0
    counted = columns.take("server_prompt")
    whole = np.where(grouped, prompt + prefix.astype(np.int64), prompt)
    whole = np.where((counted > 0) & ~grouped, counted, whole)
    if whole.max(initial=0) > MAX_TOKENS:
        raise file.error(f"a prompt with its prefix must be at most {MAX_TOKENS} tokens")
    columns.blocks["time"] = [np.where(sent > 0, sent, arrival)]
    columns.blocks["prompt"] = [whole.astype(np.int32)]


BLIS = Layout(
    name="blis",
    columns={
        "time": ("arrival_time_us",),
        "sent": ("send_time_us",),
        "prompt": ("input_tokens",),
        "output": ("output_tokens",),
        "group": ("prefix_group",),
        "prefix": ("prefix_length",),
        "server_prompt": ("server_input_tokens",),
        "session": ("session_id",),
        "turn": ("round_index",),
        "model": ("model",),
    },
    required=("time", "sent", "prompt", "output", "group", "prefix", "server_prompt"),
    unit="us",
    optional=("session", "group", "turn", "model"),
    adjust=_blis_columns,
)


def _llmservingsim_rows(line: dict[str, Any]) -> list[dict[str, Any]]:
    """A request, or the chained requests of a session: each waits for the one before and a tool."""
    chain = line.get("sub_requests")
    if chain is None:
        return [{**line, "session_id": None}]
    if not (isinstance(chain, list) and all(isinstance(one, dict) for one in chain)):
        raise CellError("a session with a list of objects in sub_requests")
    rows, delay = [], None
    for one in chain:
        time = line.get("arrival_time_ns") if delay is None else None
        rows.append({**one, "session_id": line.get("session_id"), _WAIT: delay, _TIME: time})
        delay = one.get("tool_duration_ns", 0)
    return rows


_TIME, _WAIT = "arrival_time_ns", "tool_duration_ns"  # of a row: of the tool before it
LLMSERVINGSIM = Layout(
    name="llmservingsim",
    columns={
        "time": (_TIME,),
        "prompt": ("input_toks",),
        "output": ("output_toks",),
        "session": ("session_id",),
        "delay": (_WAIT,),
    },
    marks=("input_toks", "sub_requests"),
    unit="ns",
    required=("time",),
    optional=("time", "session", "delay"),
    expand=_llmservingsim_rows,
)
