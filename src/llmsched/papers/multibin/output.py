"""A reproduction as files: one table and one picture per figure, and the report."""

from __future__ import annotations

import os
from pathlib import Path

from llmsched.papers.multibin.report import report
from llmsched.papers.multibin.reproduction import Reproduction


def write(reproduction: Reproduction, folder: str | os.PathLike[str]) -> list[Path]:
    """Write `figure-N.csv`, `figure-N.png` and `REPORT.md`; the paths, the report last.

    Raises
    ------
    ValueError
        If the folder is a file.
    """
    from llmsched.paper_figures import DPI, DRAW

    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise ValueError(f"the output folder must not be a file, got {str(folder)!r}")
    target.mkdir(parents=True, exist_ok=True)
    written, images = [], {}
    for figure in reproduction.figures:
        name = f"figure-{figure.number}" if figure.number[0].isdigit() else figure.number
        written.append(target / f"{name}.csv")
        figure.table.to_csv(written[-1], index=False)
        if figure.number in DRAW:
            images[figure.number] = f"{name}.png"
            written.append(target / images[figure.number])
            # no software version in the file: the same seed gives the same bytes
            DRAW[figure.number](figure).save(
                written[-1], dpi=DPI, verbose=False, metadata={"Software": None}
            )
    written.append(target / "REPORT.md")
    written[-1].write_text(report(reproduction, images), encoding="utf-8")
    return written
