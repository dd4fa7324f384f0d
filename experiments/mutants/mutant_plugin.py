"""A pytest plugin for mutated copies: test the copy and nothing else, fast and always alike.

Hypothesis may neither shrink (the first failure is enough), nor remember examples of another
mutant, nor draw at random: the same break is caught by the same test every time.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import Phase, settings

SOURCE = "MUTANT_SOURCE"  # environment variable: the copy's src folder

settings.register_profile(
    "mutants",
    phases=(Phase.explicit, Phase.generate),
    database=None,
    deadline=None,
    derandomize=True,
)
settings.load_profile("mutants")


def pytest_configure() -> None:
    import llmsched

    _require_copy("llmsched", llmsched.__file__)


def pytest_sessionfinish() -> None:
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "llmsched":
            _require_copy(name, getattr(module, "__file__", None))


def _require_copy(name: str, file: str | None) -> None:
    source = Path(os.environ[SOURCE]).resolve()
    if file is None or not Path(file).resolve().is_relative_to(source):
        raise pytest.UsageError(f"{name} must come from the copy, {source}, got {file}")
