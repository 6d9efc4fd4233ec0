"""An S3 server on this machine, for as long as a test wants it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def served_bucket(monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[str]:
    """Address of a prefix in the bucket `name`: the endpoint is in the address, credentials are in the environment."""
    boto3 = pytest.importorskip("boto3")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    host, port = server.get_host_and_port()
    boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1").create_bucket(Bucket=name)
    try:
        yield f"s3://{name}/one?endpoint_override={host}:{port}&scheme=http&region=us-east-1"
    finally:
        server.stop()
