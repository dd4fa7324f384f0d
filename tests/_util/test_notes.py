"""Notes that differ in numbers only are one note with a count."""

from __future__ import annotations

import warnings

import click
from click.testing import CliRunner

from llmsched._util.notes import Notes
from llmsched.cli.errors import OneLineErrors


def test_notes__that_differ_in_numbers_only_are_one():
    # given three notes of one kind, two of them equal, and one of another
    notes = Notes()
    # when they come one by one
    new = notes.extend(
        [
            "3 of 10 batches (30.5%) are out",
            "3 of 10 batches (30.5%) are out",
            "other",
            "1,004 of 2,000 batches (50.2%) are out",
        ]
    )
    # then the first of each kind is new, and the counts tell equal ones from others
    assert new == ["3 of 10 batches (30.5%) are out", "other"]
    first, other = notes.counts()
    assert (first.text, first.times, first.others) == ("3 of 10 batches (30.5%) are out", 3, 1)
    assert (other.times, other.others) == (1, 0)
    # and only the kind that came with other numbers is said to have been repeated
    (line,) = notes.repeated()
    assert line.startswith("1 more like this one, with other numbers: 3 of 10")


def test_notes__that_differ_in_words_stay_apart():
    notes = Notes()
    assert notes.extend(["bin 1 is empty", "bin 1 is full"]) == ["bin 1 is empty", "bin 1 is full"]
    assert notes.repeated() == []


def test_command__prints_one_note_of_a_kind_and_how_many_there_were():
    @click.command(cls=OneLineErrors)
    def command() -> None:
        for share in (1, 1, 2, 3):
            warnings.warn(f"{share} % are extrapolated", stacklevel=1)

    result = CliRunner().invoke(command)
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        "Note: 1 % are extrapolated",
        "Note: 2 more like this one, with other numbers: 1 % are extrapolated...",
    ]
