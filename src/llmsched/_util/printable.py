"""Text of somebody else's, such as a file's name, as a terminal, a file and a sheet can take it."""

from __future__ import annotations

_FORMULA = ("=", "+", "-", "@")


def printable(text: str) -> str:
    """The text with control characters, and bytes that are not UTF-8, as escapes.

    Examples
    --------
    >>> printable("a\\x1b[31m\\udcff.csv")
    'a\\\\x1b[31m\\\\xff.csv'
    """
    return "".join(one if one.isprintable() else _escaped(one) for one in text)


def _escaped(one: str) -> str:
    if "\udc80" <= one <= "\udcff":  # how Python holds a byte of a name that is not UTF-8
        return f"\\x{ord(one) - 0xDC00:02x}"
    return one.encode("unicode_escape").decode("ascii")


def cell(value: object) -> object:
    """A value as a cell of a CSV: a text that a spreadsheet would compute begins with `'`.

    Examples
    --------
    >>> cell("=1+1"), cell("static_fifo"), cell(-1.5)
    ("'=1+1", 'static_fifo', -1.5)
    """
    if isinstance(value, str):
        return printable("'" + value if value.startswith(_FORMULA) else value)
    return value
