"""The oldest versions that pyproject.toml allows: named for every requirement, and none newer than what tests use."""

from pathlib import Path

import pytest
from packaging.version import Version

from tests.oldest import PROJECT, oldest

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"


def versions(lines) -> dict[str, Version]:
    """Version of each `name==version`; names as an index has them."""
    pairs = (line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {name.strip().lower().replace("_", "-"): Version(version) for name, version in pairs}


def test_none_is_newer_than_the_version_that_the_tests_use() -> None:
    found, used = versions(oldest()), versions(CONSTRAINTS.read_text().splitlines())
    assert {"torch", "ray", "timm", "ultralytics", "pandas", "fastapi"} <= found.keys()
    assert "pytest" not in found
    assert {name: version for name, version in found.items() if name in used and version > used[name]} == {}


def project(tmp_path: Path, *needed: str) -> Path:
    file = tmp_path / PROJECT.name
    listed = ", ".join(f'"{one}"' for one in needed)
    more = "more = ['b[x]>=3.10,<4']"
    file.write_text(f"[project]\ndependencies = [{listed}]\n[project.optional-dependencies]\n{more}\n")
    return file


def test_the_newest_of_a_packages_oldest_versions_counts(tmp_path) -> None:
    assert list(oldest(project(tmp_path, "a>=1", "b[y]>=3.9"))) == ["a==1", "b==3.10"]


def test_a_requirement_without_an_oldest_version_is_named(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"pyproject.toml: found 'a', expected NAME>=VERSION"):
        oldest(project(tmp_path, "a"))
