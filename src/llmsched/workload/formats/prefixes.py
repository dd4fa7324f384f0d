"""The prefix ids of a file's rows: which prompts begin alike."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from llmsched._util.arrays import IntArray
from llmsched.workload.formats.encodings.columns import LENGTHS, ColumnBuilder
from llmsched.workload.formats.encodings.files import Locate, TraceFile
from llmsched.workload.formats.layout import Layout
from llmsched.workload.prefixes.prefix_ids import PrefixIds


def prefix_ids_of(
    layout: Layout,
    columns: ColumnBuilder,
    prompt: IntArray,
    names: Mapping[str, str],
    file: TraceFile,
    locate: Locate,
) -> tuple[PrefixIds | None, tuple[str, ...]]:
    """The ids in the order of the file, and a note; None where no row has any.

    An id stands for the first of the layout's `tokens_per_id` with which no prompt, shape (n,), has
    more ids than pieces; in files of our own a column says it.

    Raises
    ------
    TraceError
        If a prompt has more ids than pieces, or nothing says what an id stands for.
    """
    ids, lengths = columns.take("prefix_ids"), columns.take(LENGTHS)
    if not len(ids):
        return None, ()
    sizes = layout.tokens_per_id or (_said(columns, names, file, locate),)
    for tokens in sizes:
        if (lengths <= -(-prompt // tokens)).all():
            note = f"prefix ids were taken to stand for {tokens} tokens"
            found = PrefixIds.from_lengths(ids, lengths, tokens_per_id=tokens)
            return found, () if tokens == sizes[0] else (note,)
    row = int(np.argmax(lengths > -(-prompt // tokens)))
    most = f"at most an id per {tokens} prompt tokens, {-(-int(prompt[row]) // tokens)} here"
    message = f"must have {most}, got {int(lengths[row])}"
    raise file.error(message, **locate(row), column=names["prefix_ids"])


def _said(columns: ColumnBuilder, names: Mapping[str, str], file: TraceFile, locate: Locate) -> int:
    """The tokens per id that the file says in every row."""
    if "tokens_per_id" not in columns.blocks:
        message = "must have the column tokens_per_id beside it: the tokens an id stands for"
        raise file.error(message, column=names["prefix_ids"])
    tokens = columns.take("tokens_per_id")
    bad = np.flatnonzero((tokens != tokens[0]) | (tokens < 1))
    if len(bad):
        message = f"must be the same number >= 1 in all rows, got {tokens[bad[0]]}"
        raise file.error(message, **locate(int(bad[0])), column=names["tokens_per_id"])
    return int(tokens[0])
