"""Nothing heavy is loaded before it is needed: checked in processes of their own."""

from __future__ import annotations

import pytest
from loaded_modules import ALSO, HEAVY, loaded_by, modules


def test_import__loads_nothing_that_a_name_does_not_need():
    code = "import llmsched, sys; print(*sys.modules, file=sys.stderr)"
    assert modules(code).isdisjoint({*HEAVY, *ALSO, "click"})


def test_import__of_a_name_loads_what_it_needs_only():
    code = "from llmsched import Trace; import sys; print(*sys.modules, file=sys.stderr)"
    loaded = modules(code)
    assert "numpy" in loaded  # the test can see what is loaded
    assert loaded.isdisjoint({*HEAVY, *ALSO, "click"} - {"numpy"})


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["compare", "--help"],
        ["static-fifo", "--help"],
        ["multi-bin-dynamic", "--help"],
        ["continuous-static", "--help"],
        ["trace", "--help"],
        ["trace", "info", "--help"],
    ],
)
def test_help__loads_nothing_heavy(arguments):
    loaded = loaded_by(*arguments)
    assert "click" in loaded  # the test can see what is loaded
    assert loaded.isdisjoint({*HEAVY, *ALSO})


@pytest.mark.parametrize(
    "arguments",
    [
        ["static-fifo", "--requests", "20"],
        ["multi-bin-dynamic", "--requests", "20", "--json"],
        ["compare", "--requests", "20", "--seeds", "1", "--schedulers", "static-fifo"],
    ],
)
def test_run__loads_neither_plotting_nor_torch_nor_the_network(arguments):
    loaded = loaded_by(*arguments)
    assert "simpy" in loaded
    assert loaded.isdisjoint(
        {"plotnine", "matplotlib", "pandas", "torch", "transformers", "requests", "ray"}
    )
