"""What a waiting GPU sees of arrivals at one instant."""

from __future__ import annotations

from typing import Literal

Admission = Literal["together", "one-by-one"]
