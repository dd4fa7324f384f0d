"""The tiny plan, run once for all tests of the stress plan."""

from __future__ import annotations

import warnings

import pytest
from stress_builders import ALL, TINY

from llmsched.studies.stress.run import run_steps


@pytest.fixture(scope="session")
def done(tmp_path_factory):
    """The tiny plan, run in one process: its folder and its result."""
    out = tmp_path_factory.mktemp("stress")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # bins of so few requests merge
        return out, run_steps(TINY, ALL, out, command="llmsched stress <all>", jobs=1)
