"""Uploaded weights, named by their content; a process of its own reads each first, and runs no code of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import anyio.to_thread

from raybench.errors import UserError, counted
from raybench.serve.children import ANSWER_S, environment

MOST = 20  # uploads at a time
CHECK = "raybench.serve.check_weights"
KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Upload:
    """One uploaded file of weights."""

    key: str  # SHA-256 of its content
    name: str  # as it was uploaded; only shown
    bytes: int
    tensors: int

    @property
    def label(self) -> str:
        """What lists show."""
        return f"{self.name} ({self.bytes / 1e6:.1f} MB, {counted(self.tensors, 'tensor')}, {self.key[:8]})"


class Uploads:
    """The uploads of one server, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def all(self) -> list[Upload]:
        """Every upload, by name."""
        found = [json.loads(file.read_text("utf-8")) for file in self._folder.glob("*.json")]
        return sorted((Upload(**one) for one in found), key=lambda one: (one.name, one.key))

    def file(self, key: str) -> Path:
        """The file of an upload; UserError when there is none."""
        file = self._folder / f"{key}.weights"
        if not KEY.fullmatch(key) or not file.is_file():
            raise UserError(f"weights: found no upload {key[:12]!r}; upload the file again")
        return file

    async def add(self, name: str, chunks: AsyncIterator[bytes]) -> Upload:
        """Keep a file.

        Args:
            name: as the browser gave it; never part of a path.
            chunks: its content.

        Raises:
            UserError: there are too many uploads, or it holds no weights, or would run code.
        """
        if len(self.all()) >= MOST:
            raise UserError(f"uploads: found {MOST}, expected fewer: remove one first")
        self._folder.mkdir(parents=True, exist_ok=True)
        digest, size = sha256(), 0
        descriptor, temporary = tempfile.mkstemp(dir=self._folder, suffix=".part")
        try:
            with os.fdopen(descriptor, "wb") as out:
                async for chunk in chunks:
                    digest.update(chunk)
                    size += len(chunk)
                    out.write(chunk)
            shown = shown_name(name)
            tensors = await anyio.to_thread.run_sync(_tensors, Path(temporary), shown)
            one = Upload(digest.hexdigest(), shown, size, tensors)
            os.replace(temporary, self._folder / f"{one.key}.weights")
            (self._folder / f"{one.key}.json").write_text(json.dumps(vars(one)), "utf-8")
        finally:
            Path(temporary).unlink(missing_ok=True)
        return one

    def remove(self, key: str) -> None:
        """Remove an upload; UserError when there is none."""
        self.file(key).unlink()
        (self._folder / f"{key}.json").unlink(missing_ok=True)


def shown_name(name: str) -> str:
    """The last part of a file's name, without what isn't a plain character.

    Example:
        >>> shown_name("../../etc/passwd"), shown_name("C:\\\\nets\\\\best.pt"), shown_name("")
        ('passwd', 'best.pt', 'weights')
    """
    return re.sub(r"[^\w.+ -]", "_", re.split(r"[/\\]", name)[-1])[:80].strip() or "weights"


def _tensors(file: Path, name: str) -> int:
    """How many tensors a file holds, counted by another process; UserError when it holds none or would run code."""
    try:
        done = subprocess.run([sys.executable, "-P", "-m", CHECK, str(file)], env=environment(), cwd=file.parent,
                              capture_output=True, text=True, errors="replace", timeout=ANSWER_S)  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{name}: not read within {ANSWER_S:.0f} s") from error
    found = json.loads(done.stdout) if done.returncode == 0 and done.stdout.strip() else {}
    if "tensors" in found:
        return int(found["tensors"])
    why = found.get("error") or f"the process that read it ended with {done.returncode}"
    raise UserError(str(why).replace(str(file), name))
