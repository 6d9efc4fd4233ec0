"""What travels with a submitted sweep: the resolved sweep, the plug-ins, user modules, and whose versions sent it."""

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

import yaml

from raybench.errors import UserError
from raybench.execution.luggage import repacked, sha256, weights_of
from raybench.spec.reader import load_sweep
from raybench.spec.sweep import Sweep
from raybench.spec.trial import digest

VERSIONS = "RAYBENCH_CLIENT_VERSIONS"  # environment variable of the job
SWEEP_FILE, PLUGIN_FOLDER = "sweep.yaml", "plugins"


@dataclass(frozen=True)
class Submission:
    """One sweep, ready to be sent. `storage` is reachable from every node."""

    sweep: Sweep
    storage: str
    plugins: Sequence[Path]
    modules: Path | None  # a folder of the user's own code
    options: Sequence[str]  # of `raybench run`
    mounted: Sequence[Path] = ()  # folders that every node has at the same place

    @cached_property
    def weights(self) -> dict[str, Path]:
        """Name in the job's folder -> weights file; those below the storage or a mounted folder stay where they are."""
        return weights_of(self.sweep, [*self.mounted, *([] if "://" in self.storage else [Path(self.storage)])])

    @property
    def hash(self) -> str:
        """Equal for equal sweeps, code that travels, storage and options, wherever and whenever they are submitted."""
        code = sorted(sha256(file) for file in self.plugins)
        own = _tree_hash(self.modules) if self.modules else None
        sweep = _plain(repacked(self.sweep, self.weights))
        return digest("submission", sweep, code, own, self.storage, sorted(self.options))

    @property
    def entrypoint(self) -> str:
        """The command that the head runs in the copy of the folder that `stage` filled."""
        plugins = [word for file in self.plugins for word in ("--plugin", f"{PLUGIN_FOLDER}/{file.name}")]
        words = [SWEEP_FILE, "--address", "auto", "--storage", self.storage, *plugins, *self.options]
        return f"python -m raybench.execution.entry {shlex.join(words)}"

    def stage(self, folder: Path) -> None:
        """Fill the empty `folder` with what travels. Raises UserError when two plug-ins have one file name."""
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
        (folder / SWEEP_FILE).write_text(yaml.safe_dump(_plain(packed), sort_keys=False))
        there = repacked(self.sweep, {str(folder.absolute() / name): file for name, file in self.weights.items()})
        if load_sweep(folder / SWEEP_FILE) != there.model_copy(update={"storage": None}):
            raise AssertionError("the sweep that travels is not the sweep that was read")


def shared_storage(url: str | None) -> str:
    """`url`, if every node can reach the same place by it; UserError for none and for a relative path."""
    expected = "expected s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or the absolute path of a folder that every node mounts"
    if url is None:
        raise UserError(f"submit needs --storage (or storage: in the sweep); {expected}")
    if "://" not in url and not Path(url).is_absolute():
        raise UserError(f"--storage {url!r}: found a relative path; {expected}")
    return url


def client_versions() -> dict[str, str]:
    """What must agree between who submits and who runs."""
    return {
        "raybench": version("raybench"),
        "ray": version("ray"),
        "python": ".".join(platform.python_version_tuple()[:2]),
    }


def version_mismatch(client: Mapping[str, str], cluster: Mapping[str, str]) -> str | None:
    """One sentence that names both sides of every version that differs; None when all agree."""
    different = [
        f"{name} {client[name]} here, {name} {cluster[name]} on the cluster"
        for name in client
        if name in cluster and client[name] != cluster[name]
    ]
    if not different:
        return None
    return f"versions differ: {'; '.join(different)}. Install the same, or submit with --any-version"


def received_versions() -> dict[str, str] | None:
    """On the cluster: the versions of who submitted this job; None when they don't matter."""
    told = os.environ.get(VERSIONS)
    return json.loads(told) if told else None


def forwarded(names: Sequence[str]) -> dict[str, str]:
    """The environment variables `names` with their values here; UserError for one that isn't set."""
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise UserError(f"--env {missing[0]}: it is not set here")
    return {name: os.environ[name] for name in names}


def _plain(sweep: Sweep) -> dict:
    """The sweep as YAML may say it. Where results go is told apart."""
    return sweep.model_dump(mode="json", exclude_defaults=True, exclude={"storage"})


def _tree_hash(folder: Path) -> str:
    if not folder.is_dir():
        raise UserError(f"--working-dir {folder}: there is no such folder")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not _hidden(path.relative_to(folder)))
    return digest([(path.relative_to(folder).as_posix(), sha256(path)) for path in files])


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in path.parts)
