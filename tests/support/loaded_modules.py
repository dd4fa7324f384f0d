"""Which modules a command line or a piece of code loads, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("numpy", "scipy", "pandas", "pyarrow", "plotnine", "matplotlib", "torch", "transformers")
ALSO = ("simpy", "rich", "requests", "ray")
RUN = """
import sys
from llmsched.cli.main import main
sys.argv = ["llmsched", *{arguments!r}]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print(" ".join(sorted({{name.partition(".")[0] for name in sys.modules}})), file=sys.stderr)
"""


def modules(code: str) -> set[str]:
    """Top-level modules that are loaded when the code is done; its last line on stderr."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split())


def loaded_by(*arguments: str) -> set[str]:
    """Top-level modules that a command line loads."""
    return modules(RUN.format(arguments=arguments))
