"""Print the versions installed in this environment as a constraints file: `make constraints`."""

from __future__ import annotations

from importlib.metadata import distributions

HEADER = """\
# One version of everything that `make` installs, so that every install is the same; refreshed by
# `make constraints`. No hashes: torch comes as a CPU or a CUDA build of one version, which differ.
"""
OWN = {"llmsched", "pip", "setuptools", "wheel"}

versions = {}
for distribution in distributions():
    name = distribution.metadata["Name"].lower().replace("_", "-").replace(".", "-")
    if name not in OWN:
        # a local build tag such as +cpu names a build, not a version
        versions[name] = distribution.version.partition("+")[0]
print(HEADER + "\n".join(f"{name}=={version}" for name, version in sorted(versions.items())))
