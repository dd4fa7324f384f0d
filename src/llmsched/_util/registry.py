"""Objects by name: ours, and those that installed packages add through an entry point.

`-` and `_` are one letter in a name, as on the command line. Ours win over an entry point of the
same name, with a warning whenever that name is asked for.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """What the package ships under a name, extended by the entry points of one group.

    Parameters
    ----------
    kind : str
        What is registered, for messages ("scheduler").
    group : str
        Entry-point group that users' packages fill, each with a callable.
    ours : mapping
        The names that the package itself ships.
    """

    def __init__(self, kind: str, group: str, ours: Mapping[str, T]) -> None:
        self.kind = kind
        self.group = group
        self.ours = dict(ours)

    def __getitem__(self, name: str) -> T:
        if name in self.ours:
            return self.ours[name]
        found = self._users().get(name)
        if found is None:
            raise KeyError(name)
        if len(found) > 1:
            packages = " and ".join(package_of(point) for point in found)
            raise ValueError(
                f"{self.kind} {name!r} must come from one installed package, got {packages}; "
                "uninstall one of them"
            )
        return self._loaded(found[0])

    def __iter__(self) -> Iterator[str]:
        yield from self.ours
        yield from self._users()

    def __len__(self) -> int:
        return len(self.ours) + len(self._users())

    def __contains__(self, name: object) -> bool:
        return name in self.ours or name in self._users()

    def named(self, name: str) -> T:
        """The object called `name`.

        Raises
        ------
        ValueError
            If there is none, with the names there are; or if it is an installed package's and
            cannot be loaded.

        Warns
        -----
        UserWarning
            If an installed package has one of the same name, which is then not used.
        """
        if name not in self:
            raise ValueError(f"{self.kind} must be one of {', '.join(self)}; got {name!r}")
        for point in installed(self.group):
            if name in self.ours and _key(point.name) == _key(name):
                warnings.warn(
                    f"{self.kind} {name!r} is llmsched's own; that of {package_of(point)} is not "
                    f"used: rename it there",
                    stacklevel=2,
                )
        return self[name]

    def _users(self) -> dict[str, list[EntryPoint]]:
        """Entry points by name, without those whose names are ours."""
        taken = {_key(name) for name in self.ours}
        users: dict[str, list[EntryPoint]] = {}
        for point in installed(self.group):
            if _key(point.name) not in taken:
                users.setdefault(point.name, []).append(point)
        return users

    def _loaded(self, point: EntryPoint) -> T:
        try:
            found: T = point.load()
        except Exception as error:  # whatever somebody else's module does when it is imported
            raise ValueError(
                f"{self.kind} {point.name!r} of {package_of(point)} must be importable from "
                f"{point.value}, got {type(error).__name__}: {error}; mend or uninstall it"
            ) from error
        if not callable(found):
            raise ValueError(
                f"{self.kind} {point.name!r} of {package_of(point)} must name a callable as "
                f"module:function, got {point.value}"
            )
        return found


def installed(group: str) -> tuple[EntryPoint, ...]:
    """The entry points of a group in the installed packages."""
    return _installed(group, tuple(sys.path))


def package_of(point: EntryPoint) -> str:
    """What an entry point's package is called, for messages."""
    return f"package {point.dist.name}" if point.dist else point.value


@lru_cache(maxsize=8)  # a scan takes 5 ms, and a comparison makes dozens of schedulers
def _installed(group: str, _path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    from importlib.metadata import entry_points

    return tuple(entry_points(group=group))


def _key(name: str) -> str:
    return name.replace("-", "_")
