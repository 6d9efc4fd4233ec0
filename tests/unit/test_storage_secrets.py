"""An address of a storage stands in messages, logs and records: what may be a password in it is refused, unrepeated."""

import pytest

pytest.importorskip("obstore")
pytest.importorskip("boto3")

from raybench.cli.main import main
from raybench.errors import UserError
from raybench.storage.clients import _answer
from raybench.storage.open import open_storage


@pytest.mark.parametrize(
    "address",
    [
        "s3://AKIA:hunter2@bucket/x",
        "gs://hunter2@bucket/x",
        "s3://bucket/x?secret_access_key=hunter2",
        "s3://bucket/x?hunter2=1",
        "s3://bucket/x?endpoint_override=me:hunter2@127.0.0.1:1&scheme=http",
    ],
)
def test_credentials_in_an_address_are_refused(address, capsys, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"storage '[sg][3s]://bucket/x': found .* never from the address") as caught:
        open_storage(address)
    assert "hunter2" not in str(caught.value) or "found the option 'hunter2'" in str(caught.value)
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "quickstart", "--storage", address]) == 2
    err = capsys.readouterr().err
    assert str(caught.value) in err
    assert list(tmp_path.iterdir()) == []


def test_a_password_in_an_endpoint_of_the_environment_is_in_no_message():
    text = "error sending request for url (http://me:hunter2@127.0.0.1:1/bucket)"
    assert _answer(OSError(text))[1] == "error sending request for url (http://127.0.0.1:1/bucket)"


@pytest.mark.parametrize(
    "address", ["s3://[::1/x", "file://[::1/x", "file:///a%00b", "x" * 5000, "~nobody-of-that-name/x"]
)
def test_addresses_that_are_none(address):
    with pytest.raises(UserError, match=r"^storage '") as caught:
        open_storage(address)
    assert len(str(caught.value)) < 500


def test_a_home_that_is_nobody_s_in_the_environment_is_a_sentence(tmp_path, monkeypatch, capsys):
    axes = "name: s\ndatasets: imagefolder\nmodels: test-convnet\nmethods: random\nspeedups: 2\nrecipe: quick\n"
    (tmp_path / "s.yaml").write_text(axes)
    monkeypatch.setenv("RAYBENCH_DATA", "~nobody-of-that-name/x")
    assert main(["plan", str(tmp_path / "s.yaml")]) == 2
    assert "~nobody-of-that-name/x/imagefolder" in capsys.readouterr().err
