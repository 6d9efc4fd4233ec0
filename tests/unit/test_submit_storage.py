"""What `raybench submit` makes of a storage that it can't write from where it is typed."""

from types import SimpleNamespace

import pytest

from raybench.cli.submit import _check_storage
from raybench.errors import UserError
from raybench.storage.clients import S3Client

botocore = pytest.importorskip("botocore.exceptions")


class Answering:
    """A boto3 client that answers everything with one error."""

    def __init__(self, code):
        self.code = code

    def put_object(self, **asked):
        raise botocore.ClientError({"Error": {"Code": self.code, "Message": "no"}}, "PutObject")


@pytest.fixture
def storage_that_answers(monkeypatch):
    def answer(error):
        def create(key, data):
            raise error

        storage = SimpleNamespace(url="s3://b/p", create=create)
        monkeypatch.setattr("raybench.cli.submit.open_storage", lambda url: storage)

    return answer


@pytest.mark.parametrize("code", ["AccessDenied", "403", "InvalidAccessKeyId"])
def test_a_bucket_that_only_the_nodes_may_write_is_a_warning(code, storage_that_answers, capsys):
    with pytest.raises(UserError) as raised:
        S3Client("s3://b/p", "b", Answering(code)).put_new("x", b"")
    storage_that_answers(raised.value)
    _check_storage("s3://b/p")
    assert "warning: storage 's3://b/p': the store refuses bucket 'b'" in capsys.readouterr().err


def test_a_bucket_that_is_not_there_is_an_error(storage_that_answers):
    with pytest.raises(UserError) as raised:
        S3Client("s3://b/p", "b", Answering("NoSuchBucket")).put_new("x", b"")
    storage_that_answers(raised.value)
    with pytest.raises(UserError, match="there is none"):
        _check_storage("s3://b/p")


def test_a_folder_that_can_not_be_written_is_an_error_that_speaks(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="can't write there"):
        _check_storage(f"file://{tmp_path}/file/below")


def test_a_storage_that_is_away_is_an_error_that_speaks(storage_that_answers):
    storage_that_answers(OSError("no route"))
    with pytest.raises(UserError, match=r"can't be written \(no route\)"):
        _check_storage("s3://b/p")
