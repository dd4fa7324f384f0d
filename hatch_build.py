"""Which data files go into the wheel, as `llmsched/data/...`: no script, picture or page.

The module of the command goes beside the package; an editable install has it on the path anyway.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

DATA = (
    "calibration/**/*.csv",
    "calibration/**/*.json",
    "calibration/**/*.toml",
    "workloads/*.toml",
    "experiments/dynamic/settings/*",
    "experiments/multibin/settings/*",
)


class DataFiles(BuildHookInterface):
    """Add the data files and the module of the command to the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """List them; an editable install reads them from the checkout."""
        if version == "editable":
            return
        root = Path(self.root)
        for path in (path for pattern in DATA for path in root.glob(pattern)):
            place = path.relative_to(root)
            build_data["force_include"][str(path)] = f"llmsched/data/{place.as_posix()}"
        command = root / "src" / "llmsched_command.py"
        build_data["force_include"][str(command)] = command.name
