"""Redo the Multi-Bin paper's figures: `make paper`.

Settings are in `settings/`, one TOML file a figure. Tables go to `out/` beside this script; the
report and its pictures, which are kept in the repository, go here. With `--quick`, or with some
figures only, everything goes to `out/`.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from llmsched.studies.multibin.report import summary_table, write
from llmsched.studies.multibin.reproduction import FIGURES, reproduce

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--figure", action="append", choices=list(FIGURES), help="all by default")
    parser.add_argument("--quick", action="store_true", help="smaller sizes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    done = reproduce(
        options.figure or tuple(FIGURES),
        quick=options.quick,
        seed=options.seed,
        n_jobs=options.jobs,
    )
    written = write(done, HERE / "out")
    if options.figure is None and not options.quick:
        for path in written:
            if path.suffix in (".png", ".md"):
                shutil.copy(path, HERE)
    print(summary_table(done))


if __name__ == "__main__":  # the runs start processes, which import this file
    main()
