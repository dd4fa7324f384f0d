"""What holds for every command: groups of options, counts, near names, --quiet, JSON, doctor."""

from __future__ import annotations

import importlib.metadata
import json
import re

import click
import pytest
from click.testing import CliRunner

from llmsched.cli.command import GROUPS, OTHER, SCHEMA, group_of
from llmsched.cli.main import main

SMALL = ["--latency", "reference", "--requests", "60"]


def run(*arguments: str):
    return CliRunner().invoke(main, list(arguments), prog_name="llmsched")


@pytest.mark.parametrize("command", ["compare", "capacity", "multi-bin-only", "continuous-sjf"])
def test_help__lists_options_in_groups_and_each_once(command):
    text = run(command, "--help").stdout
    heads = [line[:-1] for line in text.splitlines() if re.fullmatch(r"[A-Z][\w ]+:", line)]
    named = [name for name in (*GROUPS, OTHER) if name in heads]
    assert heads == named
    assert {"Workload", "Hardware", "Scheduler", "Targets", "Statistics", "Output"} <= set(heads)
    found = main.get_command(click.Context(main), command)
    for option in found.params:
        assert len(re.findall(rf"^  {option.opts[0]}\b(?!-)", text, re.M)) == 1, option.opts


def test_group__of_every_scenario_field_is_known():
    from llmsched.simulation.scenario import SECTIONS

    assert {group_of(f"{section}__x") for section in SECTIONS} <= set(GROUPS)
    assert group_of("jobs") == OTHER


@pytest.mark.parametrize(("text", "seeds"), [("2e0", 2), ("0.002k", 2), ("3", 3)])
def test_count__is_taken_as_people_write_it(text, seeds):
    line = ["compare", *SMALL, "--schedulers", "static-fifo", "--seeds", text, "--json"]
    assert len(json.loads(run(*line).stdout)["seeds"]) == seeds


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("2.5", "must be a whole number, got '2.5'"),
        ("many", "must be a number such as 10000, 1e4 or 10k, got 'many'"),
        ("1e9", "1000000000 is not in the range 1<=x<=10000"),
        ("nan", "must be a whole number, got 'nan'"),
    ],
)
def test_count__that_is_none_is_one_line(text, rule):
    done = run("compare", *SMALL, "--seeds", text)
    assert done.exit_code == 2
    assert done.stderr.splitlines() == [f"Error: Invalid value for '--seeds': {rule}"] or (
        rule in done.stderr.splitlines()[-1]
    )


@pytest.mark.parametrize(
    ("line", "near"),
    [
        ("compar", "Did you mean 'compare'?"),
        ("multi_bin_dynamc", "'multi-bin-dynamic'"),
        ("trace inf", "'info'"),
        ("nothing-like-it", "--help lists them all"),
        ("compare --sheduler static-fifo", "--schedulers"),
    ],
)
def test_name__that_is_wrong_brings_the_near_ones(line, near):
    done = run(*line.split())
    assert done.exit_code == 2
    assert near in done.stderr.splitlines()[-1]


def test_quiet__leaves_the_result_and_the_errors():
    loud = run("static-fifo", *SMALL, "--latency", "h100-llama-3-8b-vllm")
    quiet = run("static-fifo", *SMALL, "--latency", "h100-llama-3-8b-vllm", "--quiet")
    assert loud.stderr  # a note, or a count of what is left out
    assert (quiet.stdout, quiet.stderr) == (loud.stdout, "")
    wrong = run("static-fifo", "--trace", "absent.csv", "--quiet")
    assert wrong.exit_code == 2
    assert wrong.stderr.startswith("Error: ")


@pytest.mark.parametrize(
    "line",
    [
        ["static-fifo", *SMALL],
        ["compare", *SMALL, "--seeds", "1"],
        ["list", "routers"],
        ["trace", "info", "poisson", "--requests", "50"],
        ["calibrate", "show", "reference"],
        ["doctor"],
    ],
    ids=lambda line: line[0],
)
def test_json__has_the_version_of_its_form_first(line):
    found = json.loads(run(*line, "--json").stdout)
    assert next(iter(found.items())) == ("schema", SCHEMA)


def test_doctor__finds_nothing_broken_here():
    done = run("doctor")
    assert done.exit_code == 0, done.stdout
    assert "a small run" in done.stdout
    assert "BROKEN" not in done.stdout


def test_doctor__says_what_is_broken_and_fails(monkeypatch):
    wanted = [
        "numpy>=99",
        "absent-package>=1",
        "ray>=99; extra == 'ray'",
        "hypothesis; extra == 'dev'",
    ]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: wanted)
    done = run("doctor", "--json")
    assert done.exit_code == 1
    checks = {one["name"]: one for one in json.loads(done.stdout)["checks"]}
    assert checks["numpy"]["state"] == "broken"
    assert ">=99 is needed" in checks["numpy"]["found"]
    assert checks["absent-package"] == {
        "name": "absent-package",
        "state": "broken",
        "found": ">=1 is needed",
    }
    assert "ray [ray]" in checks
    assert not any("hypothesis" in name for name in checks)
