"""The public names: sorted, complete, documented, and each where the package says it is."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest

import llmsched

PACKAGE = Path(inspect.getfile(llmsched)).parent
LAZY_ROOMS = sorted(path.parent for path in PACKAGE.rglob("__init__.pyi"))


def homes(room: Path) -> dict[str, str]:
    """Public name -> module, as the stub of a room says."""
    package = ".".join(("llmsched", *room.relative_to(PACKAGE).parts))
    tree = ast.parse((room / "__init__.pyi").read_text(encoding="utf-8"))
    return {
        alias.name: f"{package}.{node.module}"
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


@pytest.mark.parametrize("room", LAZY_ROOMS, ids=lambda room: room.name)
def test_room__every_public_name_is_there_and_none_hides_a_module(room):
    package = importlib.import_module(".".join(("llmsched", *room.relative_to(PACKAGE).parts)))
    for name, home in homes(room).items():
        assert getattr(package, name) is getattr(importlib.import_module(home), name)
        assert not (room / f"{name}.py").exists() or room == PACKAGE, f"{name} is a module, too"


@pytest.mark.parametrize("name", sorted(set(homes(PACKAGE)) - {"__version__"}))
def test_name__is_documented(name):
    found = getattr(llmsched, name)
    assert inspect.getdoc(found)
    if inspect.isclass(found) or inspect.isfunction(found):
        assert found.__module__ == homes(PACKAGE)[name], "it is defined elsewhere"


def test_names__are_listed():
    assert set(dir(llmsched)) >= set(homes(PACKAGE))


def test_name__that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"'?llmsched'? .*attribute '?simulat"):
        _ = llmsched.simulat  # type: ignore[attr-defined]
    with pytest.raises(ImportError):
        exec("from llmsched import simulat")
