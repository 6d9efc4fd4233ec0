"""An object store as storage: ``s3://bucket/prefix`` or ``gs://bucket/prefix``.

Object stores have no rename. A folder is uploaded under a unique hidden name and published by one conditional PUT of a
small manifest: of racing writers one commits, and a writer that dies before leaves nothing visible.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, TypedDict
from urllib.parse import SplitResult, parse_qs, urlsplit

from raybench.errors import UserError, brief
from raybench.storage.base import Names, key_parts
from raybench.storage.bucket import Bucket
from raybench.storage.clients import Refused, connect

SCHEMES = ("s3", "gs")
OPTIONS = ("endpoint_override", "scheme", "region")  # of an address
UPLOADS = ".uploads"  # below the root; hidden, so never listed
ENTRY = ".entry"  # `stages/abc` is published when the manifest `stages/abc.entry` exists


class Manifest(TypedDict):
    """A published entry: the name of its upload, and its files' relative paths with their sizes in bytes."""

    upload: str
    files: dict[str, int]


class ObjectStorage:
    """Storage below ``scheme://bucket/prefix``, shared by every machine that can reach the bucket.

    Credentials come from where boto3 and google-auth look for them, never from the address. For S3 the address may
    end in ``?endpoint_override=host:port&scheme=http&region=...``, as in pyarrow.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            address = urlsplit(url)
        except ValueError as error:  # an open bracket
            raise UserError(f"storage {url!r}: {error}; expected s3://BUCKET/PREFIX or gs://BUCKET/PREFIX") from error
        options = {name: values[-1] for name, values in parse_qs(address.query).items()}
        _check_no_secret(address, options)
        if address.scheme not in SCHEMES or not address.netloc:
            raise UserError(f"storage {url!r}: expected s3://BUCKET/PREFIX or gs://BUCKET/PREFIX")
        store = connect(url, address.scheme, address.netloc, address.path.strip("/"), options)
        self._bucket = Bucket(url, address.netloc, store)
        self._check_bucket()

    def __repr__(self) -> str:
        return f"ObjectStorage({self.url!r})"

    def read(self, key: str) -> bytes | None:
        """Content of `key`, None if there is none. One request."""
        return self._bucket.get(_name(key))

    def open(self, key: str) -> BinaryIO | None:
        """A seekable reader of `key`; None if there is none. Reads a small object at once, a large one by ranges."""
        return self._bucket.open(_name(key))

    def create(self, key: str, data: bytes, *, durable: bool = True) -> bool:
        """Write `key` with a conditional PUT; False if it already existed."""
        return self._bucket.create(_name(key), data)

    def replace(self, key: str, data: bytes, *, durable: bool = True) -> None:
        """Write `key` atomically, whether or not it exists."""
        self._bucket.put(_name(key), data)

    def list(self, prefix: str) -> Names:
        """Keys below the folder `prefix`, sorted: files, and published entries as one key each."""
        names = (found["path"] for found in self._bucket.list(_name(prefix) if prefix.strip("/") else None))
        return sorted(name.removesuffix(ENTRY) for name in names if not any(p.startswith(".") for p in name.split("/")))

    def not_listed(self, prefix: str) -> str:
        """Empty: a bucket has no folders that could be something else."""
        return ""

    def delete(self, key: str) -> None:
        """Remove a key or an entry; the entry's manifest goes first, so that no reader sees half of it."""
        manifest = self._manifest(key)
        if manifest is None:
            self._bucket.delete(_name(key))
            return
        self._bucket.delete(_name(key) + ENTRY)
        self.discard(manifest["upload"])

    def publish(self, key: str, folder: Path) -> bool:
        """Upload the finished local `folder`, then commit it as `key`; False if another writer was first.

        The local folder is removed either way. A kill in between leaves an upload for `raybench gc`.
        """
        first = not self.has(key)
        if first:
            upload = uuid.uuid4().hex
            files = self._upload(folder, upload)
            first = self._commit(key, upload, files)
            if not first:
                self.discard(upload)
        shutil.rmtree(folder)
        return first

    def rename(self, key: str, new: str) -> bool:
        """Move a file or an entry's manifest to the unused key `new`; False if there is neither."""
        for suffix in (ENTRY, ""):
            data = self.read(key + suffix)
            if data is not None:
                self._bucket.put(_name(new) + suffix, data)
                self._bucket.delete(_name(key) + suffix)
                return True
        return False

    def fetch(self, key: str, *, fresh: bool = False) -> Path | None:
        """A local copy of the published entry `key` below `cache_folder()`; None if there is none.

        An entry never changes, so an existing copy is used unless `fresh`. To be read, never written.
        """
        manifest = self._manifest(key)
        if manifest is None:
            return None
        copy = cache_folder() / manifest["upload"]
        if fresh:
            shutil.rmtree(copy, ignore_errors=True)
        return copy if copy.is_dir() or self._download(manifest, copy) else None

    def has(self, key: str) -> bool:
        """Whether `key` is a file or a published entry."""
        return self._bucket.has(_name(key)) or self._bucket.has(_name(key) + ENTRY)

    def leftovers(self, age: float) -> Names:
        """Names of uploads without a manifest that were not modified for `age` seconds, sorted."""
        uploads = self.uploads()  # before the manifests: an upload committed in between then counts as committed
        latest = time.time() - age
        return sorted(name for name in set(uploads) - self.committed() if uploads[name] <= latest)

    def discard(self, name: str) -> None:
        """Remove the files of an upload without a manifest."""
        for found in self._bucket.list(f"{UPLOADS}/{name}"):
            self._bucket.delete(found["path"])

    def uploads(self) -> dict[str, float]:
        """Name of every upload, committed or not -> when its newest file was written (seconds since 1970)."""
        newest: dict[str, float] = {}
        for found in self._bucket.list(UPLOADS):
            name = found["path"].split("/")[1]
            newest[name] = max(newest.get(name, 0.0), found["last_modified"].timestamp())
        return newest

    def committed(self) -> set[str]:
        """Names of the uploads that a manifest points to."""
        keys = [found["path"] for found in self._bucket.list(None) if found["path"].endswith(ENTRY)]
        manifests = [_manifest_in(data) for data in map(self.read, keys) if data]
        return {manifest["upload"] for manifest in manifests if manifest}

    def _upload(self, folder: Path, upload: str) -> dict[str, int]:
        """Copy `folder` to the bucket; returns relative path -> size in bytes."""
        files = _sizes(folder)
        for name in files:
            self._bucket.put(f"{UPLOADS}/{upload}/{name}", folder / name)
        return files

    def _commit(self, key: str, upload: str, files: dict[str, int]) -> bool:
        """The one write that makes an upload visible."""
        return self.create(key + ENTRY, json.dumps(Manifest(upload=upload, files=files)).encode())

    def _manifest(self, key: str) -> Manifest | None:
        data = self.read(key + ENTRY)
        return None if data is None else _manifest_in(data)

    def _download(self, manifest: Manifest, copy: Path) -> bool:
        """Fill `copy` at once; False if the entry was deleted meanwhile."""
        temporary = copy.with_name(f"{copy.name}.{uuid.uuid4().hex}.tmp")
        try:
            temporary.mkdir(parents=True)
            for name in manifest["files"]:
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                self._bucket.download(f"{UPLOADS}/{manifest['upload']}/{name}", temporary / name)
            if _sizes(temporary) != manifest["files"]:
                return False
            os.rename(temporary, copy)
        except FileNotFoundError:
            return False
        except OSError:
            if not copy.is_dir():  # else another process on this machine was first
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return True

    def _check_bucket(self) -> None:
        """Raise UserError for a missing bucket, which would otherwise look like an empty store."""
        try:
            self._bucket.list(f"{UPLOADS}/none")
        except Refused:
            return  # credentials limited to some keys may lack the right to list
        except OSError as error:
            raise UserError(f"{error}; check the address and the network") from error


def _check_no_secret(address: SplitResult, options: Mapping[str, str]) -> None:
    """UserError, which doesn't repeat it, for what may be a password: the address stands in messages and results."""
    bucket = address.netloc.rpartition("@")[2]
    where = f"storage '{address.scheme}://{bucket}{address.path}'"
    expected = "credentials are taken from the environment or the provider's own files, never from the address"
    if "@" in address.netloc:
        raise UserError(f"{where}: found a user or password before the bucket; {expected}")
    if unknown := sorted(options.keys() - OPTIONS):
        raise UserError(f"{where}: found the option {brief(unknown[0])!r}, expected {', '.join(OPTIONS)}; {expected}")
    if "@" in options.get("endpoint_override", ""):
        raise UserError(f"{where}: found a user or password in endpoint_override; {expected}")


def _name(key: str) -> str:
    """The object's name below the prefix."""
    return "/".join(key_parts(key))


def _manifest_in(data: bytes) -> Manifest | None:
    """The manifest that `data` holds; None if it is damaged: its entry then counts as incomplete."""
    try:
        found = json.loads(data)
        upload, files = str(found["upload"]), dict(found["files"])
        for name in (upload, *files):
            if "/".join(key_parts(name)) != name:  # a path that leads elsewhere
                raise ValueError(name)
        return Manifest(upload=upload, files=files)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _sizes(folder: Path) -> dict[str, int]:
    """Relative path -> size in bytes of every file below `folder`."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def cache_folder() -> Path:
    """Local folder for copies of published entries: ``RAYBENCH_CACHE``, else below the user's cache folder."""
    home = os.environ.get("RAYBENCH_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "raybench")
    return Path(home).expanduser() / "objects"
