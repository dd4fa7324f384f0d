"""Numbers as text, with the digits that their interval supports; others' text, made printable."""

from __future__ import annotations

import math

MISSING = "–"
_DIGITS = 4  # of a number without an interval
_MOST_DIGITS = 6  # of a number whose interval is narrower than anyone reads


def number_text(value: float | None, *, sign: bool = False) -> str:
    """Four significant digits, in full below a billion; `–` where there is no number.

    Examples
    --------
    >>> number_text(12249.3), number_text(0.026604), number_text(4.0), number_text(-0.5, sign=True)
    ('12,249', '0.0266', '4', '−0.5')
    """
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if abs(value) >= 1e9 or 0 < abs(value) < 1e-6:
        return _signed(f"{value:.{_DIGITS}g}", sign)
    if abs(value) >= 10 ** (_DIGITS - 1):
        return _signed(f"{value:,.0f}", sign)
    decimals = _DIGITS - 1 - math.floor(math.log10(abs(value))) if value else 0
    text = f"{value:.{decimals}f}"
    return _signed(text.rstrip("0").rstrip(".") if "." in text else text, sign)


def interval_text(mean: float, low: float, high: float, *, sign: bool = False) -> str:
    """A mean and half its interval, which is given two digits; without one, the mean alone.

    Examples
    --------
    >>> interval_text(106.6, 61.7, 151.5), interval_text(32119, 27612, 36626)
    ('107 ± 45', '32,100 ± 4,500')
    >>> interval_text(3.0, math.nan, math.nan), interval_text(3.25, 3.25, 3.25)
    ('3', '3.25 ± 0')
    """
    half = (high - low) / 2
    if not math.isfinite(mean) or not math.isfinite(half):
        return number_text(mean, sign=sign)
    if half == 0:
        return f"{number_text(mean, sign=sign)} ± 0"
    digits = 1 - math.floor(math.log10(half))
    if mean:
        digits = min(digits, _MOST_DIGITS - 1 - math.floor(math.log10(abs(mean))))
    decimals = max(0, min(digits, 9))
    centre, shown = (f"{round(value, digits):,.{decimals}f}" for value in (mean, half))
    if not shown.strip("0,."):
        shown = f"<{10.0**-decimals:.{decimals}f}"
    return f"{_signed(centre, sign)} ± {shown}"


def share_text(mean: float, low: float = math.nan, high: float = math.nan) -> str:
    """A share in per cent and its interval, cut at what a share can be.

    Examples
    --------
    >>> share_text(0.943, 0.876, 1.01), share_text(0.9783, 0.9776, 0.979), share_text(0.5)
    ('94 % (88–100)', '97.83 % (97.76–97.90)', '50 %')
    """
    if math.isnan(low) or low == high:
        return f"{number_text(100 * mean)} %"
    low, high = max(low, 0.0), min(high, 1.0)
    decimals = min(max(0, -math.floor(math.log10(max(50 * (high - low), 1e-6)))), 3)
    first, *ends = (f"{100 * share:.{decimals}f}" for share in (mean, low, high))
    return f"{first} % ({'–'.join(ends)})"


def count_text(number: float, what: str) -> str:
    """`1 GPU`, `4 GPUs`.

    Examples
    --------
    >>> count_text(1, "GPU"), count_text(4.0, "bin")
    ('1 GPU', '4 bins')
    """
    return f"{number:,.15g} {what}{'' if number == 1 else 's'}"


def _signed(text: str, sign: bool) -> str:
    """With a typographic minus, and a plus if asked for; a rounded zero has neither."""
    if not any(digit in text for digit in "123456789"):
        return text.lstrip("-")
    return text.replace("-", "−", 1) if text[0] == "-" else f"+{text}" if sign else text


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
