"""Rows of a file that follow one another: sessions, parents, pauses between answer and question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched._util.arrays import FloatArray, IntArray
from llmsched.workload.formats.clocks import PER_S, Unit
from llmsched.workload.formats.encodings.cells import MAX_TOKENS
from llmsched.workload.formats.encodings.columns import ColumnBuilder
from llmsched.workload.formats.encodings.files import Locate, TraceFile
from llmsched.workload.sessions import Turns, earliest_s, in_order, levels, whole_prompts


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """Who follows whom, as `Turns` say it but in the order of the file."""

    after: IntArray
    think_s: FloatArray

    def closes(self, time: NDArray[Any]) -> bool:
        """Whether an arrival is not recorded: it waits for an answer, or has no time."""
        waits = (self.after >= 0) & np.isfinite(self.think_s)
        return bool(waits.any()) or (time.dtype.kind == "f" and bool(np.isnan(time).any()))

    def turns(self, order: NDArray[np.intp] | None, *, timed: bool) -> Turns:
        """The same in the order of the trace."""
        rows = np.arange(len(self.after)) if order is None else order
        after, think_s = in_order(self.after, self.think_s, rows)
        return Turns(after=after, think_s=think_s, timed=timed)


def chain_of(columns: ColumnBuilder, unit: Unit) -> Chain | None:
    """Who follows whom; None where the file does not say."""
    roles = set(columns.blocks)
    if "after" in roles:  # our own
        after = columns.take("after")
        none = np.full(len(after), np.nan)
        return Chain(after, columns.take("think_s") if "think_s" in roles else none)
    if "parent" in roles and "id" in roles:
        after = _after_parent(columns.take("id"), columns.take("parent"))
    elif "session" in roles:
        turn = columns.take("turn") if "turn" in roles else None
        after = _after_in_session(columns.take("session"), turn)
    else:
        return None
    delay = columns.take("delay") if "delay" in roles else np.full(len(after), np.nan)
    return Chain(after, np.where(after >= 0, delay / PER_S[unit], np.nan))


def _after_in_session(session: IntArray, turn: NDArray[Any] | None) -> IntArray:
    """The row before in the same session, by turn or in the order of the file; -1 for the first."""
    order = np.argsort(session, kind="stable") if turn is None else np.lexsort((turn, session))
    after = np.full(len(session), -1, np.int32)
    same = (session[order[1:]] == session[order[:-1]]) & (session[order[1:]] >= 0)
    after[order[1:][same]] = order[:-1][same]
    return after


def _after_parent(ids: IntArray, parent: IntArray) -> IntArray:
    """The earlier row that has the parent's id, -1 where there is none."""
    after = np.full(len(ids), -1, np.int32)
    row_of: dict[int, int] = {}
    for row, (own, of) in enumerate(zip(ids.tolist(), parent.tolist(), strict=True)):
        after[row] = row_of.get(of, -1)
        row_of[own] = row
    return after


def chain_arrivals(
    time: NDArray[Any] | None,
    chain: Chain,
    unit: Unit,
    names: Mapping[str, str],
    file: TraceFile,
    locate: Locate,
) -> tuple[FloatArray, NDArray[np.intp] | None, bool]:
    """Arrivals in order of time, that order, and whether there are any.

    What follows an answer comes at the earliest its pause after the request before, and at once
    where no pause is given.
    """
    after, think_s = chain.after, chain.think_s
    bad = np.flatnonzero(after >= np.arange(len(after)))
    if len(bad) and "after" in names:
        message = f"must be the row of an earlier request, from 0, got {after[bad[0]]}"
        raise file.error(message, **locate(int(bad[0])), column=names["after"])
    own = np.full(len(after), np.nan) if time is None else time.astype(np.float64)
    think_s[np.isnan(own) & np.isnan(think_s) & (after >= 0)] = 0.0
    first = after < 0
    untimed = np.flatnonzero(first & np.isnan(own))
    if len(untimed) == np.count_nonzero(first):
        return np.zeros(len(after)), None, False
    if len(untimed):
        message = "must be there in the first turn of every session, or in none"
        raise file.error(message, **locate(int(untimed[0])), column=names["time"])
    arrival_s = earliest_s((own - np.nanmin(own)) / PER_S[unit], after, think_s)
    # a turn comes after the one it follows, also where both could come at one instant
    turn = np.zeros(len(after), np.int32)
    for depth, rows in enumerate(levels(after)):
        turn[rows] = depth
    backward = bool((after >= np.arange(len(after))).any())
    keys = (turn, arrival_s) if backward else (arrival_s,)
    order = np.lexsort(keys)
    return arrival_s[order], order, True


def whole_of_deltas(
    prompt: IntArray,
    output: IntArray,
    chain: Chain,
    columns: ColumnBuilder,
    file: TraceFile,
    locate: Locate,
) -> IntArray:
    """The whole prompts of sessions whose rows give only what is new in them."""
    after = chain.after.copy()
    if "context" in columns.blocks:  # rows that say that they hold the whole conversation
        whole_code = columns.names["context"].names.get("message_array_with_responses", -2)
        after[columns.take("context") == whole_code] = -1
    whole = whole_prompts(prompt, output, after)
    if whole.max(initial=0) > MAX_TOKENS:
        row = int(np.argmax(whole))
        message = f"a prompt must be at most {MAX_TOKENS} tokens, got {whole[row]} with its history"
        raise file.error(message, **locate(row))
    return whole.astype(np.int32)
