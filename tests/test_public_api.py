"""The public names: sorted, complete, and each where the package says it is."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest

import llmsched


def constants_classes_others(name: str) -> tuple[int, str]:
    """The order of ruff's RUF022: SCREAMING_CASE, then CamelCase, then the rest."""
    if name.isupper():
        return 0, name
    return (1 if name[0].isupper() else 2), name


def imports_for_type_checkers() -> dict[str, str]:
    """Name -> module of the imports that only a type checker sees."""
    tree = ast.parse(Path(inspect.getfile(llmsched)).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    assert isinstance(block.test, ast.Name)
    assert block.test.id == "TYPE_CHECKING"
    return {
        alias.asname or alias.name: str(node.module)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_names__are_sorted_and_each_there_once():
    assert llmsched.__all__ == sorted(llmsched.__all__, key=constants_classes_others)
    assert len(set(llmsched.__all__)) == len(llmsched.__all__)


def test_names__are_the_same_in_every_list():
    assert set(llmsched.__all__) == set(llmsched._HOME) == set(imports_for_type_checkers())
    assert list(llmsched._HOME) == sorted(llmsched._HOME)
    assert dir(llmsched) == sorted(llmsched.__all__)


def test_names__have_one_home_for_python_and_for_type_checkers():
    homes = {name: f"llmsched.{home}" for name, home in llmsched._HOME.items()}
    assert homes == imports_for_type_checkers()


@pytest.mark.parametrize("name", llmsched.__all__)
def test_name__is_what_its_module_has_and_is_documented(name):
    found = getattr(llmsched, name)
    module = importlib.import_module(f"llmsched.{llmsched._HOME[name]}")
    assert found is getattr(module, name)
    assert inspect.getdoc(found)
    if inspect.isclass(found) or inspect.isfunction(found):
        given_out = getattr(module, "__all__", ())
        assert found.__module__ == module.__name__ or name in given_out, "it is defined elsewhere"


def test_name__that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'llmsched' has no attribute 'simulat'"):
        _ = llmsched.simulat  # type: ignore[attr-defined]
    with pytest.raises(ImportError):
        exec("from llmsched import simulat")
