"""Objects by name: ours, and those that installed packages add through an entry point.

`-` and `_` are one letter in a name, as on the command line. Ours win over an entry point of the
same name, with a warning whenever that name is asked for.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Generic, TypeVar

from llmsched._util.plugins import said

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
        Entry-point group that users' packages fill, each with one such object.
    ours : mapping
        The names that the package itself ships.
    methods : sequence of str
        What an object of an entry point must have; by default it must be callable.
    """

    def __init__(
        self, kind: str, group: str, ours: Mapping[str, T], *, methods: Sequence[str] = ()
    ) -> None:
        self.kind = kind
        self.group = group
        self.ours = dict(ours)
        self.methods = tuple(methods)

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

    def label(self, name: str) -> str:
        """What messages call the object of that name: with its package, unless it is ours."""
        found = () if name in self.ours else self._users().get(name, ())
        return " of ".join([f"{self.kind} {name!r}", *map(package_of, found)])

    def _users(self) -> dict[str, list[EntryPoint]]:
        """Entry points by name, without those whose names are ours."""
        if not installed(self.group):
            return {}
        taken = {_key(name) for name in self.ours}
        users: dict[str, list[EntryPoint]] = {}
        for point in installed(self.group):
            if _key(point.name) not in taken:
                users.setdefault(point.name, []).append(point)
        return users

    def _loaded(self, point: EntryPoint) -> T:
        whose = f"{self.kind} {point.name!r} of {package_of(point)}"
        try:
            found: T = point.load()
        except BaseException as error:  # whatever somebody else's module does when it is imported
            raise ValueError(
                f"{whose} must be importable from {point.value}, got {said(error)}; mend or "
                "uninstall it"
            ) from error
        lacking = [name for name in self.methods if not callable(getattr(found, name, None))]
        if not self.methods and not callable(found):
            raise ValueError(f"{whose} must name a callable as module:function, got {point.value}")
        if lacking:
            raise ValueError(
                f"{whose} must name an object with {', '.join(self.methods)}; got {point.value}, "
                f"which lacks {', '.join(lacking)}"
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
