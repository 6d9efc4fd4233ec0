"""Single-object requests for S3 and GCS: those that `pyarrow.fs` can't make (conditional PUT) or makes in two (GET).

boto3 and google-cloud-storage are optional (``raybench[s3]``, ``raybench[gcs]``) and imported only when asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Protocol

import pyarrow.fs as pafs

from raybench.errors import UserError

REFUSED = {
    "AccessDenied",
    "AllAccessDisabled",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "403",
}
MISSING = {"NoSuchBucket", "404"}  # what other credentials won't change
ANSWER_S = 30.0  # a request that hasn't been answered by then is tried again


class Refused(UserError):
    """These credentials may not do it; others may."""


class ObjectClient(Protocol):
    """Single-object requests within one bucket. UserError where the owner must act, OSError for what may pass."""

    def get(self, name: str, limit: int | None = None) -> bytes | None:
        """Content of `name`, at most its first `limit` bytes; None when there is none. One request."""

    def put_new(self, name: str, data: bytes) -> bool:
        """Write `name` if it does not exist; False when it does."""

    def put(self, name: str, data: bytes) -> None:
        """Write `name`, whatever was there."""

    def delete(self, name: str) -> None:
        """Remove `name`; nothing happens when there is none."""


class S3Client:
    """S3, and what speaks its protocol."""

    def __init__(self, url: str, bucket: str, client: Any) -> None:
        self._url, self._bucket, self._client = url, bucket, client

    def get(self, name: str, limit: int | None = None) -> bytes | None:
        """Content of `name`, at most its first `limit` bytes; None when there is none."""
        from botocore.exceptions import ClientError

        only = {} if limit is None else {"Range": f"bytes=0-{limit - 1}"}
        with self._errors():
            try:
                return self._client.get_object(Bucket=self._bucket, Key=name, **only)["Body"].read()
            except ClientError as error:
                if error.response["Error"]["Code"] == "NoSuchKey":
                    return None
                if error.response["Error"]["Code"] == "InvalidRange":
                    return b""  # there is no first byte
                raise

    def put_new(self, name: str, data: bytes) -> bool:
        """Write `name` if it does not exist (``If-None-Match: *``); False when it does."""
        from botocore.exceptions import ClientError

        while True:
            try:
                with self._errors():
                    self._client.put_object(Bucket=self._bucket, Key=name, Body=data, IfNoneMatch="*")
                return True
            except ClientError as error:
                code = error.response["Error"]["Code"]
                if code == "ConditionalRequestConflict":
                    continue  # a rival's PUT or delete was under way: S3 asks to try again
                if code not in {"PreconditionFailed", "412"}:
                    raise
                # after a retry the object that is in the way may be the one we wrote before the answer got lost
                retried = error.response["ResponseMetadata"].get("RetryAttempts", 0)
                return bool(retried) and self.get(name) == data

    def put(self, name: str, data: bytes) -> None:
        """Write `name`, whatever was there."""
        with self._errors():
            self._client.put_object(Bucket=self._bucket, Key=name, Body=data)

    def delete(self, name: str) -> None:
        """Remove `name`; nothing happens when there is none."""
        with self._errors():
            self._client.delete_object(Bucket=self._bucket, Key=name)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

        try:
            yield
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in MISSING:
                raise missing(self._url, self._bucket, code) from error
            if code in REFUSED:
                raise refused(self._url, self._bucket, f"{code}: {error.response['Error'].get('Message')}") from error
            if code in {"PreconditionFailed", "412", "ConditionalRequestConflict"}:
                raise
            raise OSError(f"storage {self._url!r}: {error}") from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise refused(self._url, self._bucket, str(error)) from error
        except BotoCoreError as error:
            raise OSError(f"storage {self._url!r}: {error}") from error


class GsClient:
    """Google Cloud Storage."""

    def __init__(self, url: str, bucket: Any) -> None:
        self._url, self._bucket = url, bucket

    def get(self, name: str, limit: int | None = None) -> bytes | None:
        """Content of `name`, at most its first `limit` bytes; None when there is none."""
        from google.api_core.exceptions import NotFound, RequestRangeNotSatisfiable

        only = {} if limit is None else {"start": 0, "end": limit - 1}
        try:
            with self._errors(missing_is_refused=False):
                return self._bucket.blob(name).download_as_bytes(**only)
        except NotFound:
            return None
        except RequestRangeNotSatisfiable:
            return b""  # there is no first byte

    def put_new(self, name: str, data: bytes) -> bool:
        """Write `name` if it does not exist (``ifGenerationMatch=0``); False when it does."""
        from google.api_core.exceptions import PreconditionFailed

        try:
            with self._errors():
                self._bucket.blob(name).upload_from_string(data, if_generation_match=0)
            return True
        except PreconditionFailed:
            return False

    def put(self, name: str, data: bytes) -> None:
        """Write `name`, whatever was there."""
        from google.cloud.storage.retry import DEFAULT_RETRY

        with self._errors():  # writing the same bytes twice is harmless, so unlike the default, do retry
            self._bucket.blob(name).upload_from_string(data, retry=DEFAULT_RETRY)

    def delete(self, name: str) -> None:
        """Remove `name`; nothing happens when there is none."""
        from google.api_core.exceptions import NotFound

        try:
            with self._errors(missing_is_refused=False):
                self._bucket.blob(name).delete()
        except NotFound:
            return

    @contextmanager
    def _errors(self, *, missing_is_refused: bool = True) -> Iterator[None]:
        from google.api_core import exceptions
        from google.auth.exceptions import GoogleAuthError

        try:
            yield
        except (exceptions.Forbidden, exceptions.Unauthorized, GoogleAuthError) as error:
            raise refused(self._url, self._bucket.name, str(error)) from error
        except exceptions.NotFound as error:
            if missing_is_refused:
                raise missing(self._url, self._bucket.name, str(error)) from error
            raise
        except (exceptions.PreconditionFailed, exceptions.RequestRangeNotSatisfiable):
            raise
        except exceptions.GoogleAPIError as error:
            raise OSError(f"storage {self._url!r}: {error}") from error


def s3_client(url: str, bucket: str, options: Mapping[str, str]) -> tuple[pafs.FileSystem, ObjectClient]:
    """(bulk file system, single-object client) for an s3:// address; both talk to the same endpoint and region."""
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise UserError(f"storage {url!r} needs boto3: pip install 'raybench[s3]'") from error
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if "endpoint_override" in options:
        endpoint = f"{options.get('scheme', 'https')}://{options['endpoint_override']}"
    session = boto3.Session()
    region = options.get("region") or session.region_name or ("us-east-1" if endpoint else _region(url, bucket))
    config = Config(retries={"mode": "standard", "max_attempts": 4}, connect_timeout=10, read_timeout=ANSWER_S)
    client = session.client("s3", endpoint_url=endpoint, region_name=region, config=config)
    where = dict(zip(("scheme", "endpoint_override"), endpoint.split("://"), strict=True)) if endpoint else {}
    bulk = pafs.S3FileSystem(region=region, connect_timeout=10, request_timeout=ANSWER_S, **where)
    return bulk, S3Client(url, bucket, client)


def gs_client(url: str, bucket: str, options: Mapping[str, str]) -> tuple[pafs.FileSystem, ObjectClient]:
    """(bulk file system, single-object client) for a gs:// address.

    ``STORAGE_EMULATOR_HOST`` (http://host:port) points both at a local server, without credentials.
    """
    try:
        from google.auth.credentials import AnonymousCredentials
        from google.auth.exceptions import DefaultCredentialsError
        from google.cloud import storage
    except ImportError as error:
        raise UserError(f"storage {url!r} needs google-cloud-storage: pip install 'raybench[gcs]'") from error
    limit = {"retry_time_limit": timedelta(seconds=ANSWER_S)}
    emulator = os.environ.get("STORAGE_EMULATOR_HOST")
    if emulator:
        scheme, _, host = emulator.partition("://")
        client = storage.Client(project="raybench", credentials=AnonymousCredentials())
        bulk = pafs.GcsFileSystem(anonymous=True, scheme=scheme, endpoint_override=host, **limit)
        return bulk, GsClient(url, client.bucket(bucket))
    try:
        client = storage.Client()
    except (DefaultCredentialsError, OSError) as error:
        raise refused(url, bucket, str(error)) from error
    return pafs.GcsFileSystem(**limit), GsClient(url, client.bucket(bucket))


def refused(url: str, bucket: str, answer: str) -> Refused:
    """What to say when the store answers that these credentials may not do this."""
    return Refused(
        f"storage {url!r}: the store refuses bucket {bucket!r} ({answer}); check its name and the credentials' rights"
    )


def missing(url: str, bucket: str, answer: str) -> UserError:
    """What to say when the store answers that there is no such bucket."""
    return UserError(f"storage {url!r}: the store refuses bucket {bucket!r} ({answer}); there is none; check its name")


def unreachable(url: str, error: Exception) -> UserError:
    """What to say when nobody answers at the address."""
    return UserError(f"storage {url!r}: can't be reached ({error}); check the address and the network")


def _region(url: str, bucket: str) -> str:
    try:
        return pafs.resolve_s3_region(bucket)
    except OSError as error:
        raise unreachable(url, error) from error
