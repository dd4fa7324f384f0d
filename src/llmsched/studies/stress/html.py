"""A little HTML: text is escaped unless it is `Markup`, numbers carry their interval.

What a self-contained page needs and no more: elements, tables that scroll instead of overflowing,
and pictures that lie inside the page.
"""

from __future__ import annotations

import base64
import html
import io
import math
import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plotnine import ggplot

DPI = 110
MISSING = "–"
_DIGITS = 4  # significant digits of a mean
_MOST_DECIMALS = 6
_NUMBER = re.compile(r"[+−]?(∞|[\d,]+(\.\d+)?(e[+-]\d+)?( ± (<)?[\d,.]+(e[+-]\d+)?)?)|–")


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def escaped(content: object) -> Markup:
    """The content as HTML: `Markup` as it is, anything else as text."""
    if isinstance(content, Markup):
        return content
    return Markup(html.escape(str(content), quote=True))


def element(name: str, *contents: object, **attributes: object) -> Markup:
    """An element; an underscore in front or at the end of an attribute's name is dropped.

    Examples
    --------
    >>> element("p", "1 < 2", class_="note")
    '<p class="note">1 &lt; 2</p>'
    """
    given = "".join(
        f' {key.strip("_").replace("_", "-")}="{html.escape(str(value), quote=True)}"'
        for key, value in attributes.items()
    )
    inner = "".join(escaped(content) for content in contents)
    return Markup(f"<{name}{given}>{inner}</{name}>")


def joined(parts: Sequence[Markup]) -> Markup:
    """Parts of a page, one per line."""
    return Markup("\n".join(parts))


def table(
    head: Sequence[object],
    rows: Sequence[Sequence[object]],
    *,
    label: str,
    class_: str = "",
) -> Markup:
    """A table in a box of its own that scrolls; the first column heads its row.

    Parameters
    ----------
    head : sequence
        Titles of the columns.
    rows : sequence of sequence
        Cells; those that read as numbers are set to the right.
    label : str
        What the table holds, for those who do not see it.
    class_ : str
        `tall` gives a long table a box with a height of its own.
    """
    numeric = [bool(column) and all(map(_reads_as_number, column)) for column in _columns(rows)]
    numeric += [False] * (len(head) - len(numeric))
    titles = [
        element("th", title, scope="col", **({"class_": "number"} if right else {}))
        for title, right in zip(head, numeric, strict=True)
    ]
    body = [element("tr", *(_cell(i, cell) for i, cell in enumerate(row))) for row in rows]
    whole = element(
        "table", element("thead", element("tr", *titles)), "\n", element("tbody", joined(body))
    )
    classes = f"scroll {class_}".strip()
    return element("div", whole, class_=classes, role="region", aria_label=label, tabindex="0")


def _columns(rows: Sequence[Sequence[object]]) -> list[tuple[object, ...]]:
    return list(zip(*rows, strict=True))


def _cell(column: int, content: object) -> Markup:
    right = {"class_": "number"} if _reads_as_number(content) else {}
    if column == 0:
        return element("th", content, scope="row", **right)
    return element("td", content, **right)


def _reads_as_number(content: object) -> bool:
    """Whether the text of a cell is a number, an interval, or the mark of a missing one."""
    text = str(content)
    if isinstance(content, Markup):
        text = html.unescape(re.sub(r"<[^>]*>", "", text))
    return bool(_NUMBER.fullmatch(text.removeprefix("≈ ")))


def bullets(items: Sequence[object]) -> Markup:
    """A list of sentences."""
    return element("ul", joined([element("li", item) for item in items]))


def number(value: float | None, *, sign: bool = False) -> str:
    """A number in four digits; `–` where there is none.

    Examples
    --------
    >>> number(12249.3), number(0.026604), number(1000000), number(-0.5, sign=True)
    ('12,249', '0.02660', '1,000,000', '−0.5000')
    """
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if float(value).is_integer() and not sign:
        return _signed(f"{value:,.0f}", sign)
    return _signed(_fixed(value, _decimals(abs(value))), sign)


def interval(mean: float, low: float, high: float, *, sign: bool = False) -> str:
    """A mean and half the length of its interval, in the same decimals.

    Examples
    --------
    >>> interval(0.9978, 0.9976, 0.9980), interval(24.9685, 20.0, 29.937)
    ('0.9978 ± 0.0002', '24.97 ± 4.97')
    >>> interval(3.0, math.nan, math.nan), interval(3.25, 3.25, 3.25)
    ('3', '3.250 ± 0')
    """
    half = (high - low) / 2
    if not math.isfinite(mean) or not math.isfinite(half):
        return number(mean, sign=sign)
    decimals = _decimals(max(abs(mean), half))
    centre = _signed(_fixed(mean, decimals), sign)
    if half == 0:
        return f"{centre} ± 0"
    shown = _fixed(half, decimals)
    if float(shown.replace(",", "")) == 0:
        return f"{centre} ± <{_fixed(10.0**-decimals, decimals)}"
    return f"{centre} ± {shown}"


def _decimals(size: float) -> int:
    """Decimals that give a number of this size its digits."""
    if size == 0:
        return 0
    return min(max(_DIGITS - 1 - math.floor(math.log10(size)), 0), _MOST_DECIMALS)


def _fixed(value: float, decimals: int) -> str:
    if value and abs(value) < 10.0**-_MOST_DECIMALS:
        return f"{value:.3g}"
    return f"{value:,.{decimals}f}"


def _signed(text: str, sign: bool) -> str:
    """With a typographic minus, and a plus if asked for; a rounded zero has neither."""
    if not any(digit in text for digit in "123456789"):
        return text.lstrip("-")
    return text.replace("-", "−", 1) if text[0] == "-" else f"+{text}" if sign else text


def png(drawn: ggplot) -> bytes:
    """A plot as the bytes of a PNG file; the same numbers give the same bytes."""
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # plotnine's notes on saving
        # no software version in the file
        drawn.save(picture, format="png", dpi=DPI, verbose=False, metadata={"Software": None})
    return picture.getvalue()


def figure(picture: bytes, *, caption: str, id_: str) -> Markup:
    """A PNG inside the page, with its caption, which is its alternative text too."""
    data = base64.b64encode(picture).decode("ascii")
    image = Markup(
        f'<img src="data:image/png;base64,{data}" alt="{html.escape(caption, quote=True)}">'
    )
    box = element("div", image, class_="scroll picture", tabindex="0")
    return element("figure", box, element("figcaption", caption), id=id_)
