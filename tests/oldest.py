"""Prints the oldest versions that pyproject.toml allows, as constraints for pip: `make test-oldest` installs them.

Tools of the extra `dev` are left out: users don't install them.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
OLDEST = re.compile(r"^([\w.-]+)(?:\[[\w,-]+\])?>=([\w.]+)(?:,|$)")


def oldest(project: Path = PROJECT) -> Iterator[str]:
    """`name==version` for every requirement of users, the newest of those that name one package twice.

    Raises:
        ValueError: a requirement names no oldest version.
    """
    described = tomllib.loads(project.read_text())["project"]
    extras = [needed for name, needed in described["optional-dependencies"].items() if name != "dev"]
    found: dict[str, str] = {}
    for needed in sum(extras, described["dependencies"]):
        match = OLDEST.match(needed)
        if match is None:
            raise ValueError(f"{project.name}: found {needed!r}, expected NAME>=VERSION")
        name, version = match.groups()
        found[name] = max(found.get(name, version), version, key=_numbers)
    return (f"{name}=={version}" for name, version in sorted(found.items()))


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


if __name__ == "__main__":
    print("\n".join(oldest()))
