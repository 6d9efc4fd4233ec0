"""A local or shared directory as storage. Every write is atomic, also after a kill or on a full disk."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import stat
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from raybench.errors import RaybenchWarning, UserError
from raybench.storage.base import Names, key_parts

MARKER = ".complete"  # inside every published folder, so that a rename onto it fails
MOVES = 20  # how often a file is moved into a folder that others make and remove meanwhile
NONE = {errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENXIO}  # no file there; ENXIO: a socket
SCRATCH = ".tmp"  # for files being written; below the root, so that a rename stays in one file system; never listed


class LocalStorage:
    """Storage below one directory, which several processes and machines may share. Needs hard links and rename.

    A symbolic link to a folder in it is never followed by a call that lists, writes or removes: what it leads to is not
    the storage's, and `raybench gc` removes what it finds.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).expanduser().absolute()
        self.url = str(self.root)

    def __repr__(self) -> str:
        return f"LocalStorage({self.url!r})"

    def read(self, key: str) -> bytes | None:
        """Content of `key`, None if there is none."""
        if (file := self.open(key)) is None:
            return None
        with file:
            return file.read()

    def open(self, key: str) -> BinaryIO | None:
        """A seekable reader of `key`, valid even if the key is deleted meanwhile; None if there is none.

        A pipe or a device, which raybench makes none of, reads as an empty file.
        """
        try:
            file = open(self._path(key), "rb", opener=_at_once)  # noqa: SIM115  # the caller's
        except OSError as error:
            if error.errno in NONE:
                return None
            raise
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return file
        file.close()
        return io.BytesIO()

    def create(self, key: str, data: bytes, *, durable: bool = True) -> bool:
        """Write `key` atomically if it does not exist; False if it already did."""
        target = self._own(key)
        if os.path.lexists(target):
            return False
        with self._scratch() as temporary:
            _write(temporary, data, durable)
            return self._move(target, lambda: os.link(temporary, target), durable)

    def replace(self, key: str, data: bytes, *, durable: bool = True) -> None:
        """Write `key` atomically, whether or not it exists."""
        target = self._own(key)
        with self._scratch() as temporary:
            _write(temporary, data, durable)
            self._move(target, lambda: os.replace(temporary, target), durable)

    def list(self, prefix: str) -> Names:
        """Keys below the folder `prefix`, sorted: files, and published entries as one key each.

        A link to a folder is left out, with a warning.
        """
        if why := self.not_listed(prefix):
            _warn(why)
            return []
        parts = key_parts(prefix) if prefix.strip("/") else []
        return sorted(_entries(os.path.join(self.root, *parts), "/".join(parts)))

    def not_listed(self, prefix: str) -> str:
        """Why what lies below the folder `prefix` can't be listed, in a sentence; empty if it can, or isn't there."""
        path = str(self.root)
        for name in key_parts(prefix) if prefix.strip("/") else []:
            path = os.path.join(path, name)
            try:
                kind = os.lstat(path).st_mode  # looked at once: another process may make the folder between two looks
            except OSError:
                return ""
            if stat.S_ISLNK(kind):
                return _link(path)
            if not stat.S_ISDIR(kind):
                return f"{path}: found a file, expected a folder"
        return ""

    def delete(self, key: str) -> None:
        """Remove a file or an entry atomically; nothing happens if there is none."""
        target = self._own(key)
        with self._scratch() as grave, contextlib.suppress(FileNotFoundError):
            os.rename(target, grave)
        with contextlib.suppress(OSError):  # the folder may hold other keys, or be removed already
            target.parent.rmdir()

    def publish(self, key: str, folder: Path) -> bool:
        """Move the finished local `folder` to `key` atomically; False if another writer was first, whose copy stays."""
        target = self._own(key)
        if target.exists():
            shutil.rmtree(folder)
            return False
        with self._scratch() as temporary:
            shutil.copytree(folder, temporary)
            (temporary / MARKER).touch()
            _sync_tree(temporary)
            first = self._move(target, lambda: os.rename(temporary, target))
        shutil.rmtree(folder)
        return first

    def rename(self, key: str, new: str) -> bool:
        """Move a file or a folder, also one that is no complete entry, to the unused key `new`; False if none is."""
        source, target = self._own(key), self._own(new)
        if not source.exists():
            return False
        try:
            return self._move(target, lambda: os.rename(source, target))
        except FileNotFoundError:
            return False  # another process moved it meanwhile

    def fetch(self, key: str, *, fresh: bool = False) -> Path | None:
        """The folder of the published entry `key`, to be read only; None if there is none."""
        path = self._path(key)
        return path if (path / MARKER).exists() else None

    def has(self, key: str) -> bool:
        """Whether `key` is a file or a published entry."""
        path = self._path(key)
        return path.is_file() or (path / MARKER).exists()

    def leftovers(self, age: float) -> Names:
        """Names of unfinished writes that were not modified for `age` seconds, sorted."""
        latest, folder = time.time() - age, self.root / SCRATCH
        if folder.is_symlink():
            _warn(_link(folder))
            return []
        try:
            found = sorted(os.listdir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [name for name in found if _newest(folder / name) <= latest]

    def discard(self, name: str) -> None:
        """Remove one of the `leftovers`; nothing happens if it was removed already."""
        folder = self.root / SCRATCH
        if not folder.is_symlink():
            _remove(folder / key_parts(name)[-1])

    def _path(self, key: str) -> Path:
        return self.root.joinpath(*key_parts(key))

    def _own(self, key: str) -> Path:
        """The path of `key`, for a call that changes it. UserError where a link to a folder lies on the way."""
        path, (*folders, name) = str(self.root), key_parts(key)
        for folder in folders:
            path = os.path.join(path, folder)
            if os.path.islink(path):
                raise UserError(_link(path))
        return Path(path, name)

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[Path]:
        """A unique path for a file or folder being written; removed at the end if still there."""
        folder = self.root / SCRATCH
        if folder.is_symlink():
            raise UserError(_link(folder))
        if not folder.is_dir():
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"storage {self.url!r}: can't write there: {error.strerror}") from error
        path = folder / uuid.uuid4().hex
        try:
            yield path
        finally:
            _remove(path)

    def _move(self, target: Path, move: Callable[[], object], durable: bool = True) -> bool:
        """Run the atomic `move` onto `target` and, if `durable`, sync its folder to disk; False if it existed."""
        for left in reversed(range(MOVES)):
            try:
                move()
            except FileNotFoundError:  # its folder: not made yet, made just now, or removed empty by another process
                if not left:
                    raise
                target.parent.mkdir(parents=True, exist_ok=True)
            except OSError:
                if target.exists():
                    return False
                raise
            else:
                break
        if durable:
            _sync(target.parent)
        return True


def _write(path: Path, data: bytes, durable: bool) -> None:
    with open(path, "xb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())


def _sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk."""
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
    """When `path` or anything below it was last modified (seconds since 1970); now, if it was just removed."""
    try:
        return max(each.lstat().st_mtime for each in (path, *path.rglob("*")))
    except FileNotFoundError:
        return time.time()


def _entries(top: str, key: str) -> Iterator[str]:
    """Keys of files and published folders below the folder `top`, whose key is `key`, without hidden names."""
    try:
        with os.scandir(top) as found:
            children = [child for child in found if not child.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return  # does not exist, or was deleted meanwhile
    for child in children:
        own = f"{key}/{child.name}" if key else child.name
        if not _is_dir(child) or os.path.exists(os.path.join(child.path, MARKER)):
            yield own
        elif child.is_symlink():
            _warn(_link(child.path))
        else:
            yield from _entries(child.path, own)


def _is_dir(child: os.DirEntry[str]) -> bool:
    try:
        return child.is_dir()
    except OSError:  # a link to itself
        return False


def _link(path: str | Path) -> str:
    """The sentence about a link in the place of a folder."""
    return f"{path}: found a link to {os.readlink(path)}, expected a folder; what lies there isn't read"


def _warn(why: str) -> None:
    warnings.warn(why, RaybenchWarning, stacklevel=3)


def _remove(path: Path) -> None:
    """Remove what is at `path`, if anything is; of a link the link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _at_once(path: str, flags: int) -> int:
    """Open `path` without waiting for whoever writes to it, if it is a pipe: nothing of ours is."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
