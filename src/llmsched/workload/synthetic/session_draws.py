"""Draws conversations whose turns wait for answers and whose prompts grow with what was said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched._util.arrays import IntArray, given_up
from llmsched.workload.prefixes.prefix_ids import PrefixIds
from llmsched.workload.sessions import Turns
from llmsched.workload.synthetic.profile_kinds import Sessions
from llmsched.workload.synthetic.token_laws import law_tokens, truncated_lognormal
from llmsched.workload.trace import Trace

_BLOCK = 1 << 14  # sessions

Column = NDArray[Any]
Columns = dict[str, Column]


def draw_sessions(profile: Sessions, n_requests: int, rng: np.random.Generator) -> Trace:
    """The first `n_requests` requests by earliest arrival, as if every answer took no time.

    Parameters
    ----------
    profile : Sessions
        What `load_profile` returns.
    n_requests : int
        Rows to draw, >= 1.
    rng : numpy.random.Generator
        Its children are drawn from, it is not.
    """
    taken: list[Columns] = []
    n = 0
    for block in _in_order(_blocks(profile, rng)):
        taken.append(block)
        n += len(block["arrival_s"])
        if n >= n_requests:
            break
    columns = {name: values[:n_requests] for name, values in _joined(taken).items()}
    after = _turn_before(columns["session"])
    think_s = np.where(after < 0, np.nan, columns["think_s"])
    return Trace(
        arrival_s=given_up(columns["arrival_s"] - columns["arrival_s"][0]),
        prompt_tokens=given_up(columns["prompt_tokens"].astype(np.int32)),
        output_tokens=columns["output_tokens"],
        prefix_ids=_prefix_ids(profile, columns),
        turns=Turns(after=after, think_s=think_s),
        name=profile.name,
    )


def _blocks(profile: Sessions, rng: np.random.Generator) -> Iterator[Columns]:
    """Sessions in order of their beginnings: a block holds its sessions to their ends."""
    starts, turns, thinking, lengths = rng.spawn(4)
    now_s, first_session = 0.0, 0
    while True:
        start_s = now_s + starts.standard_exponential(_BLOCK).cumsum() / profile.sessions_per_s
        now_s = float(start_s[-1])
        n_turns = turns.geometric(1 / profile.mean_turns, _BLOCK)
        session, begins = np.repeat(np.arange(_BLOCK), n_turns), n_turns.cumsum() - n_turns
        n = len(session)
        think_s = truncated_lognormal(
            np.array([profile.think_log_mean]),
            profile.think_log_sd,
            0.0,
            profile.think_max_s,
            thinking.random(n),
        )
        think_s[begins] = 0.0
        message = law_tokens(profile.message, lengths.random(n))
        message[begins] = law_tokens(profile.first, lengths.random(_BLOCK))
        output = law_tokens(profile.output, lengths.random(n))
        said = _since((message + output).astype(np.int64), begins, session)
        context = said + profile.system_tokens  # with the answer to come
        fits = context <= profile.max_context_tokens  # it grows: of a session the first turns fit
        columns: Columns = {
            "arrival_s": start_s[session] + _since(think_s, begins, session),
            "session": first_session + session,
            "think_s": think_s,
            "prompt_tokens": context - output,
            "output_tokens": output,
        }
        yield {name: values[fits] for name, values in columns.items()}
        first_session += _BLOCK


def _since(values: Column, begins: NDArray[np.intp], session: NDArray[np.intp]) -> Column:
    """Running sums that begin again with each session; they never fall within one."""
    sums: Column = values.cumsum()
    since: Column = sums - (sums[begins] - values[begins])[session]
    return since


def _in_order(blocks: Iterator[Columns]) -> Iterator[Columns]:
    """The requests of all blocks in order of time: those behind the last beginning wait."""
    later: Columns | None = None
    for block in blocks:
        last_start_s = block["arrival_s"][np.argmax(block["session"])]
        joined = block if later is None else _joined([later, block])
        # ties by session, and within one by turn, as they stand
        order = np.lexsort((joined["session"], joined["arrival_s"]))
        ordered = {name: values[order] for name, values in joined.items()}
        end = int(np.searchsorted(ordered["arrival_s"], last_start_s, side="right"))
        later = {name: values[end:] for name, values in ordered.items()}
        yield {name: values[:end] for name, values in ordered.items()}


def _joined(blocks: Sequence[Columns]) -> Columns:
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _prefix_ids(profile: Sessions, columns: Columns) -> PrefixIds:
    """Ids of the whole pieces of each prompt: the system's are those of all, others a session's.

    A session's context only grows, so its piece k is the same in all turns that have it.
    """
    tokens = profile.tokens_per_id
    pieces = columns["prompt_tokens"] // tokens
    begins = pieces.cumsum() - pieces
    place = np.arange(pieces.sum()) - np.repeat(begins, pieces)
    of_session = columns["session"] * -(-profile.max_context_tokens // tokens)
    own = place >= profile.system_tokens // tokens
    ids = place + np.repeat(of_session, pieces) * own
    return PrefixIds.from_lengths(ids, pieces, tokens_per_id=tokens)


def _turn_before(session: Column) -> IntArray:
    """The row before in the same session, -1 for its first."""
    order = np.argsort(session, kind="stable")
    after = np.full(len(session), -1, np.int32)
    same = session[order[1:]] == session[order[:-1]]
    after[order[1:][same]] = order[:-1][same]
    return after
