"""What a folder of data holds, as one hash: labels and small files by content, large images by path and size."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from raybench.storage.hashing import file_sha256
from raybench.storage.user_cache import cache_folder, cache_name, write_cache

SMALL = 64 << 10  # bytes: smaller images are hashed by content
IMAGES = {".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".avif"}
LEFT_BY_TOOLS = {".cache"}  # endings of files that other programs write beside the data
UNREADABLE = "unreadable entries"
LENGTH = 16  # hex digits that are kept
SETTLED_S = 2.0  # a file that was changed more recently may change again within one tick of the clock
BIG, SAMPLE = 512, 16  # a quick look at a folder of that many images reads the state of a few of them
LARGE_TREE, BIG_THERE = 100_000, 64  # in a tree of so many files, at folders of fewer images, too


@dataclass(frozen=True)
class Fingerprint:
    """The hash of a folder's data, and what could not be part of it."""

    digest: str  # 16 hex digits; the same on every machine that holds the same data
    left_out: Mapping[str, int] = field(default_factory=dict)  # why -> how many entries

    def __str__(self) -> str:
        return self.digest


@dataclass(frozen=True)
class _Folder:
    """One folder, not what lies below it. `state` changes with the name, size or time of any of its files."""

    state: str
    digest: str
    left_out: Mapping[str, int]
    folders: tuple[str, ...]
    sample: tuple[str, ...] = ()  # files whose state a quick look reads; their names come from a whole look
    quick: str = ""  # state by the folder's own time and a few of its files; empty where all files are looked at
    files: int = 0


def fingerprint(root: Path, *, quick: bool = False, cache: Path | None = None) -> Fingerprint:
    """Hash what lies below `root`; links are followed.

    Annotations, labels, archives and all other files that are not images count by content, images below 64 KiB too,
    larger ones by path and size. Hidden entries and caches that tools leave behind do not count.

    Args:
        root: the folder of a dataset.
        quick: trust the cache for a folder of at least 512 images (64 in a tree of 100,000 files) whose own
            time, and those of 16 of its files, are as before. An image replaced in place by one of the same size then
            goes unnoticed until the next whole look, which every run takes.
        cache: the folder for what is known of large trees; None: `raybench/fingerprints` in the user's cache folder.

    Returns:
        The hash, and counts of dead links, loops and unreadable entries, which are not part of it. A name that isn't
        UTF-8 is part of it, byte by byte, and counted.
    """
    known = _Cache(root, cache)
    hasher, left_out = hashlib.sha256(), Counter[str]()
    pending: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", ())]
    while pending:
        relative, above = pending.pop()
        path = os.path.join(root, relative) if relative else os.fspath(root)
        try:
            own = os.stat(path)
        except OSError:
            left_out["dead links" if os.path.islink(path) else UNREADABLE] += 1
            continue
        identity = (own.st_dev, own.st_ino)
        if identity in above:
            left_out["links that lead back to a folder above"] += 1
            continue
        found = known.look(path, relative, own, quick)
        if found is None:
            left_out[UNREADABLE] += 1
            continue
        hasher.update(os.fsencode(relative) + b"\0" + found.digest.encode() + b"\n")
        left_out.update(found.left_out)
        names = (f"{relative}/{name}" if relative else name for name in reversed(found.folders))
        pending += [(name, (*above, identity)) for name in names]
    known.save()
    return Fingerprint(hasher.hexdigest()[:LENGTH], dict(sorted(left_out.items())))


def file_fingerprint(path: Path) -> str:
    """Hash of one file, by the same rule: its name and size, and its content unless it is a large image.

    Args:
        path: the file.

    Returns:
        16 hex digits; none for a file that can't be read.
    """
    try:
        size = path.stat().st_size
        content = "" if _by_size(path.name, size) else file_sha256(path)
    except OSError:
        return ""
    return hashlib.sha256(os.fsencode(path.name) + f"\0{size}\0{content}".encode()).hexdigest()[:LENGTH]


class _Cache:
    """What is known of the folders below one root, by their files' names, sizes and times (of content and of state)."""

    def __init__(self, root: Path, folder: Path | None) -> None:
        self._file = (folder or cache_folder("fingerprints")) / cache_name(root)
        self._before = self._read()
        self._big = BIG if sum(one.files for one in self._before.values()) < LARGE_TREE else BIG_THERE
        self._now: dict[str, _Folder] = {}

    def look(self, path: str, relative: str, own: os.stat_result, quick: bool) -> _Folder | None:
        """What the folder `path` holds; None when it can't be listed."""
        before = self._before.get(relative)
        if quick and before and self._looks_unchanged(before, path, own):
            self._now[relative] = before
            return before
        try:
            listed = sorted(os.scandir(path), key=lambda entry: os.fsencode(entry.name))
        except OSError:
            return None
        files, folders, left_out, newest = _sorted_out(listed)
        seen = _state(files)
        if before and before.state == seen and before.folders == folders:
            digest = before.digest
            left_out[UNREADABLE] = max(left_out[UNREADABLE], before.left_out.get(UNREADABLE, 0))
        else:
            digest = _digest(files, left_out)
        large = len(files) >= BIG_THERE and all(_is_image(entry.name) for entry, _ in files)
        known = {what: count for what, count in left_out.items() if count}
        sample = tuple(entry.name for entry, _ in files[:: max(1, len(files) // SAMPLE)]) if large else ()
        found = _Folder(
            seen, digest, known, folders, sample, _quick_state(path, own, sample) if large else "", len(files)
        )
        if time.time() - max(newest, own.st_mtime, own.st_ctime) > SETTLED_S:
            self._now[relative] = found
        return found

    def _looks_unchanged(self, before: _Folder, path: str, own: os.stat_result) -> bool:
        """Whether a large folder shows no change at a quick look: its own times and those of a sample of its files."""
        return (
            bool(before.quick) and before.files >= self._big and before.quick == _quick_state(path, own, before.sample)
        )

    def save(self) -> None:
        """Keep what is known now, unless nothing is new."""
        if self._now == self._before:
            return
        content = {
            name: [one.state, one.digest, dict(one.left_out), one.folders, one.sample, one.quick, one.files]
            for name, one in self._now.items()
        }
        write_cache(self._file, content)

    def _read(self) -> dict[str, _Folder]:
        try:
            content = json.loads(self._file.read_text())
            return {
                name: _Folder(state, digest, left_out, tuple(folders), tuple(sample), quick, int(files))
                for name, (state, digest, left_out, folders, sample, quick, files) in content.items()
            }
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):  # not there, or damaged: made again
            return {}


Files = list[tuple[os.DirEntry[str], os.stat_result]]


def _sorted_out(listed: Iterable[os.DirEntry[str]]) -> tuple[Files, tuple[str, ...], Counter[str], float]:
    """(files with their state, names of folders, what is left out, the newest file's time) of one folder's entries."""
    files: Files = []
    folders: list[str] = []
    left_out: Counter[str] = Counter()
    newest = 0.0
    for entry in listed:
        name = entry.name
        if name.startswith(".") or name == "__pycache__" or os.path.splitext(name)[1] in LEFT_BY_TOOLS:
            continue
        if not _is_utf8(name):
            left_out["names that are not UTF-8"] += 1
        try:
            status = entry.stat()
        except OSError:
            left_out["dead links" if entry.is_symlink() else UNREADABLE] += 1
            continue
        if stat.S_ISDIR(status.st_mode):
            folders.append(name)
        elif stat.S_ISREG(status.st_mode):
            files.append((entry, status))
            newest = max(newest, status.st_mtime, status.st_ctime)
        else:
            left_out["pipes, sockets and devices"] += 1
    return files, tuple(folders), left_out, newest


def _state(files: Files) -> str:
    """Hash of one folder's files: names, sizes and times."""
    hasher = hashlib.sha256()
    for entry, status in files:
        times = f"\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ctime_ns}\n"
        hasher.update(os.fsencode(entry.name) + times.encode())
    return hasher.hexdigest()


def _digest(files: Files, left_out: Counter[str]) -> str:
    """Hash of one folder's files: names, sizes, and contents where they count."""
    hasher = hashlib.sha256()
    for entry, status in files:
        content = ""
        if not _by_size(entry.name, status.st_size):
            try:
                content = file_sha256(entry.path)
            except OSError:
                left_out[UNREADABLE] += 1
                continue
        hasher.update(os.fsencode(entry.name) + f"\0{status.st_size}\0{content}\n".encode())
    return hasher.hexdigest()


def _quick_state(path: str, own: os.stat_result, sample: tuple[str, ...]) -> str:
    """The folder's own times, which every name added, removed or replaced changes, and the state of a few files."""
    try:
        found = [os.stat(os.path.join(path, name)) for name in sample]
    except OSError:
        return ""
    states = [(one.st_size, one.st_mtime_ns, one.st_ctime_ns) for one in found]
    return hashlib.sha256(json.dumps([own.st_mtime_ns, own.st_ctime_ns, states]).encode()).hexdigest()


def _by_size(name: str, size: int) -> bool:
    """Whether a file counts by its size alone: a large image."""
    return size > SMALL and _is_image(name)


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGES


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
