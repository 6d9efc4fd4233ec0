"""What is sent with a submitted sweep: the sweep, plug-ins, user modules, weights, versions of the sender."""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from raybench.errors import UserError
from raybench.execution.attachments import repacked, weights_of
from raybench.storage.hashing import file_sha256
from raybench.sweep.digests import digest
from raybench.sweep.reader import load_sweep
from raybench.sweep.spread import PLURALS
from raybench.sweep.sweep import Sweep

VERSIONS = "RAYBENCH_CLIENT_VERSIONS"  # environment variable of the job
SWEEP_FILE, PLUGIN_FOLDER = "sweep.yaml", "plugins"


@dataclass(frozen=True)
class Submission:
    """One sweep, ready to be submitted. `storage` must be reachable from every node."""

    sweep: Sweep
    storage: str
    plugins: Sequence[Path]
    modules: Path | None  # folder of the user's modules
    options: Sequence[str]  # of `raybench run`
    mounted: Sequence[Path] = ()  # folders that every node has at the same path

    @cached_property
    def weights(self) -> dict[str, Path]:
        """Name in the job's folder -> weights file; files below the storage or a mounted folder are not sent."""
        return weights_of(self.sweep, [*self.mounted, *([] if "://" in self.storage else [Path(self.storage)])])

    @property
    def hash(self) -> str:
        """Hash of sweep, code, storage and options; equal on whatever machine and whenever they are submitted."""
        code = sorted(file_sha256(file) for file in self.plugins)
        own = _tree_hash(self.modules) if self.modules else None
        sweep = _as_yaml(repacked(self.sweep, self.weights))
        return digest("submission", sweep, code, own, self.storage, sorted(self.options))

    @property
    def entrypoint(self) -> str:
        """Command that the head node runs in its copy of the folder that `stage` filled."""
        plugins = [word for file in self.plugins for word in ("--plugin", f"{PLUGIN_FOLDER}/{file.name}")]
        words = [SWEEP_FILE, "--address", "auto", "--storage", self.storage, *plugins, *self.options]
        return f"python -m raybench.cli.job_entry {shlex.join(words)}"

    def stage(self, folder: Path) -> None:
        """Write everything that is sent into the empty `folder`. UserError if two plug-ins have one file name."""
        if self.modules:
            shutil.copytree(
                self.modules, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*", "__pycache__")
            )
        (folder / PLUGIN_FOLDER).mkdir(exist_ok=True)
        for file in self.plugins:
            target = folder / PLUGIN_FOLDER / file.name
            if target.exists():
                raise UserError(f"--plugin {file}: another plug-in is called {file.name}; file names must differ")
            shutil.copyfile(file, target)
        for name, file in self.weights.items():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(file, folder / name)
        packed = repacked(self.sweep, self.weights)
        (folder / SWEEP_FILE).write_text(yaml.safe_dump(_as_yaml(packed), sort_keys=False))
        expected = repacked(self.sweep, {str(folder.absolute() / name): file for name, file in self.weights.items()})
        if load_sweep(folder / SWEEP_FILE) != expected.model_copy(update={"storage": None}):
            raise AssertionError("the sweep that is sent differs from the sweep that was read")


def shared_storage(url: str | None) -> str:
    """`url`, if it can mean the same place on every node; UserError for None and for a relative path."""
    expected = "expected s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or the absolute path of a folder that every node mounts"
    if url is None:
        raise UserError(f"--storage: found none, neither here nor in the sweep; {expected}")
    if "://" not in url and not Path(url).is_absolute():
        raise UserError(f"--storage {url!r}: found a relative path; {expected}")
    return url


def client_versions() -> dict[str, str]:
    """Versions that must be equal on the submitting machine and on the cluster."""
    return {
        "raybench": version("raybench"),
        "ray": version("ray"),
        "python": ".".join(platform.python_version_tuple()[:2]),
    }


def version_mismatch(client: Mapping[str, str], cluster: Mapping[str, str]) -> str | None:
    """One sentence with both versions of each package that differs; None when all agree."""
    different = [
        f"{name} {client[name]} here, {name} {cluster[name]} on the cluster"
        for name in client
        if name in cluster and client[name] != cluster[name]
    ]
    if not different:
        return None
    return f"versions differ: {'; '.join(different)}. Install the same versions, or submit with --any-version"


def received_versions() -> dict[str, str] | None:
    """On the cluster: versions of the machine that submitted this job; None if sent with --any-version."""
    versions = os.environ.get(VERSIONS)
    return json.loads(versions) if versions else None


def forwarded(names: Sequence[str]) -> dict[str, str]:
    """Environment variables `names` with their values on this machine; UserError for one that is not set."""
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise UserError(f"--env {missing[0]}: the variable is not set on this machine")
    return {name: os.environ[name] for name in names}


def _as_yaml(sweep: Sweep) -> dict[str, Any]:
    """The sweep as data that a sweep file may contain, without `storage`, which is an option of the command."""
    single = {name for name, several in PLURALS.items() if getattr(sweep, several)}
    return sweep.model_dump(mode="json", exclude_defaults=True, exclude={"storage", *single})


def _tree_hash(folder: Path) -> str:
    if not folder.is_dir():
        raise UserError(f"--working-dir {folder}: no such folder")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not _hidden(path.relative_to(folder)))
    return digest([(path.relative_to(folder).as_posix(), file_sha256(path)) for path in files])


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in path.parts)
