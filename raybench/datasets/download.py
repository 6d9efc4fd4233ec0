"""Downloads a dataset from its authors' site, checks it, and moves it into place when it is complete."""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError

from raybench.errors import UserError

CHUNK = 1 << 18  # bytes read at once
OnBytes = Callable[[int, int | None], None]  # progress callback: (bytes so far, total bytes or None)


@dataclass(frozen=True)
class Source:
    """One archive: its URL, the MD5 that its authors publish, and the folder that it unpacks to."""

    url: str
    md5: str
    folder: str


def source_of(name: str) -> Source:
    """The archive of dataset `name`; UserError saying how to get datasets that can't be downloaded here."""
    from torchvision.datasets import CIFAR10, CIFAR100

    sources = {
        "cifar10": Source(CIFAR10.url, CIFAR10.tgz_md5, CIFAR10.base_folder),
        "cifar100": Source(CIFAR100.url, CIFAR100.tgz_md5, CIFAR100.base_folder),
    }
    others = {
        "digits": "is part of scikit-learn: nothing to fetch",
        "digits-detection": "is made from scikit-learn's digits: nothing to fetch",
        "imagenet": "needs a registration at image-net.org; unpack it to train/WNID/*.JPEG and val/WNID/*.JPEG",
        "coco": "comes from cocodataset.org; unpack it to train2017/, val2017/ and annotations/",
    }
    if name in others:
        raise UserError(f"dataset {name!r} {others[name]}")
    if name not in sources:
        raise UserError(f"dataset {name!r} can't be fetched; known: {', '.join(sources)}")
    return sources[name]


def fetch(source: Source, root: Path, progress: OnBytes = lambda done, total: None) -> Path:
    """Download, check and unpack `source` to `root`/folder in one atomic step; returns that folder.

    UserError when the folder exists, the network fails, or the checksum differs.
    """
    target = root / source.folder
    if target.exists():
        raise UserError(f"{target} is there already; remove it to fetch it again")
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".raybench-", dir=root) as temporary:
        archive = Path(temporary) / "archive"
        found = _download(source.url, archive, progress)
        if found != source.md5:
            raise UserError(
                f"{source.url}: found the MD5 {found}, expected {source.md5}: the download is damaged, try again"
            )
        with tarfile.open(archive) as tar:
            if hasattr(tarfile, "data_filter"):
                tar.extractall(temporary, filter="data")
            else:  # Python before 3.11.4; the MD5 vouches for the content
                tar.extractall(temporary)
        made = Path(temporary) / source.folder
        if not made.is_dir():
            raise UserError(f"{source.url}: found no folder {source.folder} in the archive")
        made.rename(target)
    return target


def _download(url: str, archive: Path, progress: OnBytes) -> str:
    """Download `url` to the file `archive`; returns its MD5."""
    md5, done, total = hashlib.md5(usedforsecurity=False), 0, None
    try:
        with urllib.request.urlopen(url, timeout=30) as answer, archive.open("wb") as file:
            length = answer.headers.get("Content-Length")
            total = int(length) if length else None
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                md5.update(chunk)
                done += len(chunk)
                progress(done, total)
    except (URLError, TimeoutError, ConnectionError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"{url} can't be reached ({reason}). Without a network, copy the unpacked folder from another machine"
        ) from error
    if total is not None and done < total:
        raise UserError(f"{url} ended after {done:,} of {total:,} bytes; nothing was kept, try again")
    return md5.hexdigest()
