"""Where the package's data folders (`calibration`, `workloads`) lie, installed or in a checkout."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def data_folder(name: str) -> Path:
    """The folder `name`: inside the installed package, or at the top of a source checkout."""
    for root in (_PACKAGE / "data", _PACKAGE.parents[1]):
        if (root / name).is_dir():
            return root / name
    raise FileNotFoundError(f"data folder {name!r} must lie in the package; reinstall llmsched")
