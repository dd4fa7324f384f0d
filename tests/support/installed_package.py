"""A package of one module and one entry point, by hand: to install one takes pip a second."""

from __future__ import annotations

import sys
from pathlib import Path


def put_package(
    folder: Path, name: str, code: str, *, group: str, entry: str, attribute: str = "make"
) -> Path:
    """Write the package into `folder`/`name` and give that path, to be put on `sys.path`."""
    sys.modules.pop(name, None)  # that of an earlier test
    site = folder / name
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (site / f"{name}.py").write_text(code)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{entry} = {name}:{attribute}\n")
    return site
