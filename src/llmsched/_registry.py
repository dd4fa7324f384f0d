"""Objects by name: ours, and those that installed packages add through an entry point."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """What the package ships under a name, extended by the entry points of one group.

    Parameters
    ----------
    kind : str
        What is registered, for messages ("scheduler").
    group : str
        Entry-point group that users' packages fill.
    ours : mapping
        The names that the package itself ships; they win over an entry point of the same name.
    """

    def __init__(self, kind: str, group: str, ours: Mapping[str, T]) -> None:
        self.kind = kind
        self.group = group
        self.ours = dict(ours)

    def _entry_points(self) -> dict[str, object]:
        from importlib.metadata import entry_points

        return {p.name: p for p in entry_points(group=self.group) if p.name not in self.ours}

    def __getitem__(self, name: str) -> T:
        if name in self.ours:
            return self.ours[name]
        installed = self._entry_points()
        if name not in installed:
            raise KeyError(name)
        return installed[name].load()  # type: ignore[attr-defined, no-any-return]

    def __iter__(self) -> Iterator[str]:
        yield from self.ours
        yield from self._entry_points()

    def __len__(self) -> int:
        return len(self.ours) + len(self._entry_points())

    def __contains__(self, name: object) -> bool:
        return name in self.ours or name in self._entry_points()

    def named(self, name: str) -> T:
        """The object called `name`.

        Raises
        ------
        ValueError
            If there is none; the message lists the names there are.
        """
        if name not in self:
            raise ValueError(f"{self.kind} must be one of {', '.join(self)}; got {name!r}")
        return self[name]
