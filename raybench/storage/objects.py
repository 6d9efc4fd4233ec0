"""An object store as storage: ``s3://bucket/prefix`` or ``gs://bucket/prefix``.

Object stores have no rename. A folder is uploaded under a name of its own that nobody lists, and comes into being
with one conditional PUT of a small manifest: of racing writers one commits, and a writer that dies before leaves
nothing visible. Bulk data goes through `pyarrow.fs`, which has no conditional PUT; single keys through `ObjectClient`.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import time
import uuid
from pathlib import Path
from typing import BinaryIO
from urllib.parse import parse_qs, urlsplit

import pyarrow.fs as pafs

from raybench.errors import UserError
from raybench.storage.base import key_parts
from raybench.storage.clients import gs_client, s3_client, unreachable

SCHEMES = ("s3", "gs")
UPLOADS = ".uploads"  # below the root; hidden, so never listed
AT_ONCE = 4 << 20  # bytes: below that one request costs less than several ranges
ENTRY = ".entry"  # `stages/abc` is published when the manifest `stages/abc.entry` exists


class ObjectStorage:
    """Storage below ``scheme://bucket/prefix``, shared by every machine that may reach the bucket.

    Credentials come from where boto3 and google-auth look for them, never from the address. For S3 the address may
    end in ``?endpoint_override=host:port&scheme=http&region=...``, as in pyarrow.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        address = urlsplit(url)
        options = {name: values[-1] for name, values in parse_qs(address.query).items()}
        self._bucket, self._prefix = address.netloc, address.path.strip("/")
        if address.scheme not in SCHEMES or not self._bucket:
            raise UserError(f"storage {url!r}: expected s3://BUCKET/PREFIX or gs://BUCKET/PREFIX")
        connect = s3_client if address.scheme == "s3" else gs_client
        self.filesystem, self._client = connect(url, self._bucket, options)
        self.root = "/".join(part for part in (self._bucket, self._prefix) if part)
        self._check_bucket()

    def __repr__(self) -> str:
        return f"ObjectStorage({self.url!r})"

    def read(self, key: str) -> bytes | None:
        """Content of `key`, None when there is none. One request: pyarrow would ask for the size first."""
        return self._client.get(self._name(key))

    def open(self, key: str) -> BinaryIO | None:
        """A seekable reader of `key`; None when there is none. Small objects are read at once, large ones by ranges."""
        head = self._client.get(self._name(key), AT_ONCE + 1)
        if head is None:
            return None
        return io.BytesIO(head) if len(head) <= AT_ONCE else self.filesystem.open_input_file(self._path(key))

    def create(self, key: str, data: bytes) -> bool:
        """Write `key` with one conditional PUT; False when it already existed."""
        return self._client.put_new(self._name(key), data)

    def replace(self, key: str, data: bytes) -> None:
        """Write `key` with one PUT, whatever was there."""
        self._client.put(self._name(key), data)

    def list(self, prefix: str) -> list[str]:
        """Keys below the folder `prefix`, sorted: files, and published entries as one key each."""
        top = self._path(prefix) if prefix.strip("/") else self.root
        selector = pafs.FileSelector(top, allow_not_found=True, recursive=True)
        found = (info.path for info in self.filesystem.get_file_info(selector) if info.type == pafs.FileType.File)
        keys = (path.removeprefix(self.root).lstrip("/") for path in found)
        return sorted(key.removesuffix(ENTRY) for key in keys if not any(p.startswith(".") for p in key.split("/")))

    def delete(self, key: str) -> None:
        """Remove a key or an entry; the entry's manifest goes first, so that no reader sees half of it."""
        manifest = self._manifest(key)
        if manifest is None:
            self._client.delete(self._name(key))
            return
        self._client.delete(self._name(key) + ENTRY)
        self.discard(manifest["upload"])

    def publish(self, key: str, folder: Path) -> bool:
        """Upload the finished local `folder`, then commit it as `key`; False when another writer was first.

        The local folder is gone afterwards either way. A kill in between leaves an upload for `raybench gc`.
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

    def fetch(self, key: str) -> Path | None:
        """A local copy of the published entry `key` below `cache_folder()`; None when there is none.

        An entry never changes, so a copy that is there is right. To be read, never written.
        """
        manifest = self._manifest(key)
        if manifest is None:
            return None
        copy = cache_folder() / manifest["upload"]
        return copy if copy.is_dir() or self._download(manifest, copy) else None

    def has(self, key: str) -> bool:
        """Whether `key` is a file or a published entry."""
        path = self._path(key)
        return any(info.type == pafs.FileType.File for info in self.filesystem.get_file_info([path, path + ENTRY]))

    def leftovers(self, age: float) -> list[str]:
        """Names of uploads that no manifest points to and that nobody has touched for `age` seconds, sorted."""
        uploads = self.uploads()  # before the manifests: what is committed in between is then seen as committed
        latest = time.time() - age
        return sorted(name for name in set(uploads) - self.committed() if uploads[name] <= latest)

    def discard(self, name: str) -> None:
        """Remove the files of an upload that no manifest points to (any more)."""
        top = f"{self.root}/{UPLOADS}/{name}"
        selector = pafs.FileSelector(top, allow_not_found=True, recursive=True)
        for info in self.filesystem.get_file_info(selector):
            marker = "" if info.type == pafs.FileType.File else "/"  # pyarrow marks folders with an empty object
            self._client.delete(info.path.removeprefix(f"{self._bucket}/") + marker)
        self._client.delete(top.removeprefix(f"{self._bucket}/") + "/")

    def uploads(self) -> dict[str, float]:
        """Name of every upload, committed or not -> when its newest file was written (seconds since 1970)."""
        selector = pafs.FileSelector(f"{self.root}/{UPLOADS}", allow_not_found=True, recursive=True)
        newest: dict[str, float] = {}
        for info in self.filesystem.get_file_info(selector):
            if info.type == pafs.FileType.File:
                name = info.path.removeprefix(f"{self.root}/{UPLOADS}/").partition("/")[0]
                newest[name] = max(newest.get(name, 0.0), info.mtime.timestamp())
        return newest

    def committed(self) -> set[str]:
        """Names of the uploads that a manifest points to."""
        selector = pafs.FileSelector(self.root, allow_not_found=True, recursive=True)
        paths = [info.path for info in self.filesystem.get_file_info(selector) if info.path.endswith(ENTRY)]
        manifests = (self.read(path.removeprefix(self.root).lstrip("/")) for path in paths)
        return {json.loads(manifest)["upload"] for manifest in manifests if manifest}

    def _upload(self, folder: Path, upload: str) -> dict[str, int]:
        """Copy `folder` to the bucket; returns relative path -> size in bytes."""
        here, there = pafs.LocalFileSystem(), f"{self.root}/{UPLOADS}/{upload}"
        pafs.copy_files(str(folder), there, source_filesystem=here, destination_filesystem=self.filesystem)
        return _sizes(folder)

    def _commit(self, key: str, upload: str, files: dict[str, int]) -> bool:
        """The one write that makes an upload visible."""
        return self._client.put_new(self._name(key) + ENTRY, json.dumps({"upload": upload, "files": files}).encode())

    def _manifest(self, key: str) -> dict | None:
        data = self.read(key + ENTRY)
        return None if data is None else json.loads(data)

    def _download(self, manifest: dict, copy: Path) -> bool:
        """Fill `copy` at once; False when the entry was deleted meanwhile."""
        temporary = copy.with_name(f"{copy.name}.{uuid.uuid4().hex}.tmp")
        try:
            temporary.mkdir(parents=True)
            for name, size in manifest["files"].items():
                self._copy(f"{UPLOADS}/{manifest['upload']}/{name}", size, temporary / name)
            if _sizes(temporary) != manifest["files"]:
                return False
            os.rename(temporary, copy)
        except FileNotFoundError:
            return False
        except OSError:
            if not copy.is_dir():  # else a rival on this machine was first
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return True

    def _copy(self, name: str, size: int, target: Path) -> None:
        """One file below the root to a local path: a small one by one request. FileNotFoundError when it is gone."""
        target.parent.mkdir(parents=True, exist_ok=True)
        if size > AT_ONCE:
            here, there = pafs.LocalFileSystem(), f"{self.root}/{name}"
            pafs.copy_files(there, str(target), source_filesystem=self.filesystem, destination_filesystem=here)
            return
        data = self._client.get("/".join(filter(None, (self._prefix, name))))
        if data is None:
            raise FileNotFoundError(name)
        target.write_bytes(data)

    def _check_bucket(self) -> None:
        """A mistyped bucket must not look like an empty store."""
        try:
            info = self.filesystem.get_file_info(self._bucket)
        except OSError as error:
            if "ACCESS_DENIED" in str(error) or "PERMISSION" in str(error).upper():
                return  # a key that may only touch the prefix may not ask for the bucket
            raise unreachable(self.url, error) from error
        if info.type == pafs.FileType.NotFound:
            raise UserError(f"storage {self.url!r}: there is no bucket {self._bucket!r} that these credentials can see")

    def _name(self, key: str) -> str:
        """The object's name within the bucket."""
        return "/".join([*filter(None, [self._prefix]), *key_parts(key)])

    def _path(self, key: str) -> str:
        return f"{self._bucket}/{self._name(key)}"


def _sizes(folder: Path) -> dict[str, int]:
    """Relative path -> size in bytes of every file below `folder`."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def cache_folder() -> Path:
    """Where entries of object stores are kept on this machine: ``RAYBENCH_CACHE``, else the user's cache folder."""
    home = os.environ.get("RAYBENCH_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "raybench")
    return Path(home).expanduser() / "objects"
