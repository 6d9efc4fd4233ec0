"""What `raybench submit` makes of a storage that it can't write from where it is typed."""

from types import SimpleNamespace

import pytest

from raybench.cli.submit import _check_storage
from raybench.errors import UserError
from raybench.storage.open import open_storage
from tests.s3 import answering

pytest.importorskip("obstore")


@pytest.fixture(autouse=True)
def credentials(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")


def _error_of_a_write(status, code):
    with answering(status, code, "no") as address, pytest.raises(UserError) as raised:
        open_storage(f"s3://b/p?{address}").create("x", b"")
    return raised.value


@pytest.fixture
def storage_that_answers(monkeypatch):
    def answer(error):
        def create(key, data, durable=True):
            raise error

        storage = SimpleNamespace(url="s3://b/p", create=create, not_listed=lambda folder: "")
        monkeypatch.setattr("raybench.cli.submit.open_storage", lambda url: storage)

    return answer


@pytest.mark.parametrize("code", ["AccessDenied", "", "InvalidAccessKeyId"])
def test_a_bucket_that_only_the_nodes_may_write_is_a_warning(code, storage_that_answers, capsys):
    storage_that_answers(_error_of_a_write(403, code))
    _check_storage("s3://b/p")
    printed = capsys.readouterr().err
    assert printed.startswith("warning: storage 's3://b/p?")
    assert "': the store refuses bucket 'b'" in printed


def test_a_bucket_that_is_not_there_is_an_error(storage_that_answers):
    storage_that_answers(_error_of_a_write(404, "NoSuchBucket"))
    with pytest.raises(UserError, match="there is no bucket 'b'"):
        _check_storage("s3://b/p")


def test_a_folder_that_can_not_be_written_is_an_error_that_speaks(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="can't write there"):
        _check_storage(f"file://{tmp_path}/file/below")


def test_a_storage_that_is_away_is_an_error_that_speaks(storage_that_answers):
    storage_that_answers(OSError("no route"))
    with pytest.raises(UserError, match=r"can't be written \(no route\)"):
        _check_storage("s3://b/p")
