"""Connections to S3 and Google Cloud Storage through obstore, and what their errors mean to a user.

obstore sends the requests. boto3 and google-auth find the credentials, so that profiles, single sign-on and workload
identity work as in the providers' own tools. All three are optional (``raybench[s3]``, ``raybench[gcs]``) and imported
only when an address needs them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from raybench.errors import UserError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, GCSCredential, GCSCredentialProvider, GCSStore, RetryConfig, S3Store

ANSWER_S = 30.0  # a request without an answer for so long is sent again
RETRIES: RetryConfig = {"max_retries": 3, "retry_timeout": timedelta(seconds=2 * ANSWER_S)}
GS_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"


class Refused(UserError):
    """The store denies access with these credentials; other credentials may work."""


def connect(url: str, scheme: str, bucket: str, prefix: str, options: Mapping[str, str]) -> S3Store | GCSStore:
    """A client for the objects below `prefix` in `bucket`; sends no request to the bucket.

    Raises UserError for a missing client library, Refused where no credentials are found.
    """
    extra = "s3" if scheme == "s3" else "gcs"
    try:
        return _s3(url, bucket, prefix, options) if scheme == "s3" else _gs(url, bucket, prefix)
    except ImportError as error:
        raise UserError(
            f"storage {url!r} needs optional libraries ({error}): pip install 'raybench[{extra}]'"
        ) from error


def _s3(url: str, bucket: str, prefix: str, options: Mapping[str, str]) -> S3Store:
    import boto3
    from botocore.exceptions import BotoCoreError
    from obstore.auth.boto3 import Boto3CredentialProvider
    from obstore.store import S3Store

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if "endpoint_override" in options:
        endpoint = f"{options.get('scheme', 'https')}://{options['endpoint_override']}"
    try:
        session = boto3.Session()
        credentials = Boto3CredentialProvider(session, ttl=timedelta(minutes=5))
    except (BotoCoreError, ValueError) as error:
        answer = str(error) if isinstance(error, BotoCoreError) else "Unable to locate credentials"
        raise Refused(f"storage {url!r}: no usable credentials ({answer})") from error
    region = options.get("region") or session.region_name or ("us-east-1" if endpoint else _region(url, bucket))
    return S3Store(
        bucket,
        prefix=prefix or None,
        config={"region": region, "disable_bulk_delete": True, **({"endpoint": endpoint} if endpoint else {})},
        client_options=_client_options(endpoint),
        retry_config=RETRIES,
        credential_provider=credentials,
    )


def _gs(url: str, bucket: str, prefix: str) -> GCSStore:
    """``STORAGE_EMULATOR_HOST`` (http://host:port) selects a local server, without credentials."""
    from obstore.store import GCSStore

    emulator = os.environ.get("STORAGE_EMULATOR_HOST")
    return GCSStore(
        bucket,
        prefix=prefix or None,
        config={"base_url": emulator} if emulator else {},
        client_options=_client_options(emulator),
        retry_config=RETRIES,
        credential_provider=_no_token if emulator else _google_credentials(url),
    )


def _google_credentials(url: str) -> GCSCredentialProvider:
    import google.auth
    from google.auth.exceptions import GoogleAuthError
    from obstore.auth.google import GoogleCredentialProvider

    try:
        credentials, _ = google.auth.default(scopes=[GS_SCOPE])
        return GoogleCredentialProvider(credentials)
    except (GoogleAuthError, OSError) as error:
        raise Refused(f"storage {url!r}: no usable credentials ({error})") from error


def _client_options(endpoint: str | None) -> ClientConfig:
    return {
        "allow_http": endpoint is not None and endpoint.startswith("http://"),
        "connect_timeout": timedelta(seconds=10),
        "read_timeout": timedelta(seconds=ANSWER_S),
        "timeout": timedelta(hours=1),  # of a whole body; the default of 30 s fails on a large file
    }


def _no_token() -> GCSCredential:
    """For an emulator: with `skip_signature` obstore would still request a token before each PUT."""
    return {"token": "none", "expires_at": None}


@contextmanager
def errors(url: str, bucket: str) -> Iterator[None]:
    """Translate obstore's errors: UserError where the user must act, OSError for what may pass.

    FileNotFoundError and AlreadyExistsError concern one object and pass through.
    """
    from obstore.exceptions import AlreadyExistsError, BaseError, UnauthenticatedError

    try:
        yield
    except AlreadyExistsError:
        raise
    except (BaseError, FileNotFoundError) as error:
        status, answer = _answer(error)
        if answer.startswith("NoSuchBucket"):
            raise UserError(f"storage {url!r}: there is no bucket {bucket!r} ({answer}); check its name") from error
        if isinstance(error, FileNotFoundError):
            raise
        if status in {"401", "403"} or isinstance(error, UnauthenticatedError):
            raise Refused(
                f"storage {url!r}: the store refuses bucket {bucket!r} ({answer}); "
                "check its name and the credentials' rights"
            ) from error
        raise OSError(f"storage {url!r}: " + (answer if status else f"can't be reached ({answer})")) from error


def _answer(error: Exception) -> tuple[str | None, str]:
    """The HTTP status, None without an answer; and the store's code and message, else what obstore reports."""
    text, _, debug = str(error).partition("\n\nDebug source")
    status = re.search(r"non-2xx status code: (\d+)", text)
    code, message = (re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL) for tag in ("Code", "Message"))
    if code:
        return status and status[1], ": ".join(found[1] for found in (code, message) if found)
    cause = re.search(r'message: "([^"]+)"', debug)  # the system's, such as "Connection refused"
    said = text.partition("\n")[0] + (f": {cause[1]}" if cause else "")
    return status and status[1], re.sub(r"//[^/\s]*@", "//", said)  # a password in AWS_ENDPOINT_URL


def _region(url: str, bucket: str) -> str:
    import pyarrow.fs as pafs

    try:
        return pafs.resolve_s3_region(bucket)
    except OSError as error:
        raise UserError(f"storage {url!r}: can't be reached ({error}); check the address and the network") from error
