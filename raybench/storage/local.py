"""A local or shared directory as storage. What it holds is whole or absent, whenever a kill or a full disk comes."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from raybench.errors import UserError
from raybench.storage.base import key_parts

MARKER = ".complete"  # inside every published folder, so that a rename onto it can't succeed
SCRATCH = ".tmp"  # below the root, so that a rename never crosses a file system; never listed


class LocalStorage:
    """Storage below one directory. Several processes and machines may share it (it needs hard links and rename)."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).expanduser().absolute()
        self.url = str(self.root)

    def __repr__(self) -> str:
        return f"LocalStorage({self.url!r})"

    def read(self, key: str) -> bytes | None:
        """Content of `key`, None when there is none."""
        try:
            return self._path(key).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None

    def open(self, key: str) -> BinaryIO | None:
        """A seekable reader of `key`, good even when the key is deleted meanwhile; None when there is none."""
        try:
            return open(self._path(key), "rb")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None

    def create(self, key: str, data: bytes) -> bool:
        """Write `key` whole and at once if it does not exist; False when it already did."""
        target = self._path(key)
        if target.exists():
            return False
        with self._scratch() as temporary:
            _write(temporary, data)
            return self._settle(target, lambda: os.link(temporary, target))

    def replace(self, key: str, data: bytes) -> None:
        """Write `key` whole and at once, whatever was there."""
        target = self._path(key)
        with self._scratch() as temporary:
            _write(temporary, data)
            self._settle(target, lambda: os.replace(temporary, target))

    def list(self, prefix: str) -> list[str]:
        """Keys below the folder `prefix`, sorted: files, and published entries as one key each."""
        top = self._path(prefix) if prefix.strip("/") else self.root
        return sorted(path.relative_to(self.root).as_posix() for path in _entries(top))

    def delete(self, key: str) -> None:
        """Remove a key or an entry folder, at once for every reader; nothing happens when there is none."""
        target = self._path(key)
        with self._scratch() as grave, contextlib.suppress(FileNotFoundError):
            os.rename(target, grave)
        with contextlib.suppress(OSError):  # tidy: the folder may hold other keys, or be gone
            target.parent.rmdir()

    def publish(self, key: str, folder: Path) -> bool:
        """Move the finished local `folder` to `key` at once; False when another writer was first (its copy stays)."""
        target = self._path(key)
        if target.exists():
            shutil.rmtree(folder)
            return False
        with self._scratch() as temporary:
            shutil.copytree(folder, temporary)
            (temporary / MARKER).touch()
            _sync_tree(temporary)
            first = self._settle(target, lambda: os.rename(temporary, target))
        shutil.rmtree(folder)
        return first

    def fetch(self, key: str) -> Path | None:
        """The folder of the published entry `key`; None when there is none. To be read, never written."""
        path = self._path(key)
        return path if (path / MARKER).exists() else None

    def has(self, key: str) -> bool:
        """Whether `key` is a file or a published entry."""
        path = self._path(key)
        return path.is_file() or (path / MARKER).exists()

    def leftovers(self, age: float) -> list[str]:
        """Names of unfinished writes that nobody has touched for `age` seconds, sorted."""
        latest = time.time() - age
        try:
            found = sorted(os.listdir(self.root / SCRATCH))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [name for name in found if _newest(self.root / SCRATCH / name) <= latest]

    def discard(self, name: str) -> None:
        """Remove one of the `leftovers`; nothing happens when it is gone."""
        path = self.root / SCRATCH / key_parts(name)[-1]
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.root.joinpath(*key_parts(key))

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[Path]:
        """A name of its own for something being written; whatever is left of it is removed."""
        folder = self.root / SCRATCH
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"storage {self.url!r}: can't write there: {error.strerror}") from error
        path = folder / uuid.uuid4().hex
        try:
            yield path
        finally:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def _settle(self, target: Path, move: Callable[[], object]) -> bool:
        """Run the atomic `move` onto `target` and make it survive a power cut; False when the target was there."""
        while True:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                move()
            except FileNotFoundError:
                if target.parent.exists():
                    raise
                continue  # a rival tidied the empty folder away between the two calls
            except OSError:
                if target.exists():
                    return False
                raise
            _sync(target.parent)
            return True


def _write(path: Path, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    """Force a file, or a folder's list of names, onto the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_tree(top: Path) -> None:
    for folder, _, files in os.walk(top):
        for name in files:
            _sync(Path(folder, name))
        _sync(Path(folder))


def _newest(path: Path) -> float:
    """When `path`, or anything below it, was last written (seconds since 1970); now, when it just vanished."""
    try:
        return max(one.stat().st_mtime for one in (path, *path.rglob("*")))
    except FileNotFoundError:
        return time.time()


def _entries(top: Path) -> Iterator[Path]:
    """Files and published folders below `top`; hidden names are not ours to show."""
    try:
        with os.scandir(top) as found:
            children = [child for child in found if not child.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return  # nothing there, or deleted while we looked
    for child in children:
        if not child.is_dir() or os.path.exists(os.path.join(child.path, MARKER)):
            yield Path(child.path)
        else:
            yield from _entries(Path(child.path))
