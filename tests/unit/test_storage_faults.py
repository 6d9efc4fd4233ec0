"""Conditional writes whose answer is lost or delayed, and credentials that are missing or have expired."""

import pytest

pytest.importorskip("obstore")
pytest.importorskip("boto3")

from raybench.errors import UserError
from raybench.storage.bucket import Bucket
from raybench.storage.clients import Refused, errors
from raybench.storage.open import open_storage
from tests.s3 import answering


class Faulty:
    """An obstore client with one object, whose first writes fail with `failures`, in order; a "lost" one is applied."""

    def __init__(self, *failures):
        self.failures, self.writers = list(failures), []

    def put(self, name, data, *, mode, attributes):
        from obstore.exceptions import AlreadyExistsError, GenericError

        failure = self.failures.pop(0) if self.failures else None
        if self.writers or failure == "conflict":
            raise AlreadyExistsError("409 Conflict or 412 Precondition Failed")
        if failure != "timeout":
            self.writers.append(attributes)
        if failure:
            raise GenericError("Generic S3 error: error sending request")

    def get(self, name, options):
        if not self.writers:
            raise FileNotFoundError(name)
        return type("Result", (), {"attributes": self.writers[0]})


def _create(store):
    return Bucket("s3://b/p", "b", store).create("key", b"data")


def test_a_write_whose_answer_was_lost_counts_as_ours():
    assert _create(Faulty("lost"))


@pytest.mark.parametrize("failures", [["conflict"] * 4, ["timeout", "timeout"]])
def test_a_write_that_did_not_happen_is_tried_again(failures):
    store = Faulty(*failures)
    assert _create(store)
    assert not _create(store), "written by the first call"


def test_a_store_that_does_not_answer_is_an_error_in_the_end():
    with pytest.raises(OSError, match="can't be reached"):
        _create(Faulty(*["timeout"] * 3))


@pytest.fixture
def no_credentials(monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "STORAGE_EMULATOR_HOST"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return tmp_path


@pytest.mark.parametrize("url", ["s3://b/p?region=us-east-1", "gs://b/p"])
def test_missing_credentials_are_named_without_a_request(url, no_credentials):
    if url.startswith("gs"):
        pytest.importorskip("google.auth")
    with pytest.raises(Refused, match="no usable credentials"):
        open_storage(url)


def test_a_profile_is_found(no_credentials, monkeypatch):
    (no_credentials / "AWS_SHARED_CREDENTIALS_FILE").write_text(
        "[lab]\naws_access_key_id = k\naws_secret_access_key = s\n"
    )
    monkeypatch.setenv("AWS_PROFILE", "lab")
    with answering(403, "AccessDenied", "no") as address:
        assert open_storage(f"s3://b/p?{address}").list("") == []
    monkeypatch.setenv("AWS_PROFILE", "other")
    with pytest.raises(Refused, match="other"):
        open_storage("s3://b/p")


def test_expired_credentials_are_refused():
    from obstore.exceptions import UnauthenticatedError

    with pytest.raises(UserError, match=r"refuses bucket 'b' .*has expired"), errors("s3://b/p", "b"):
        raise UnauthenticatedError("The SSO session has expired\n\nDebug source:\n...")
