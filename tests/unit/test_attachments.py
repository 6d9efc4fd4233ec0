"""Weights and data that a submitted sweep names: what travels, what must be mounted, what is refused."""

import pytest

from raybench.cli.main import main
from raybench.errors import UserError
from raybench.execution.attachments import check_data
from raybench.execution.submission import Submission
from raybench.sweep.reader import load_sweep
from raybench.sweep.resolve import resolve


def _submission(sweep, **changes):
    return Submission(
        **{"sweep": sweep, "storage": "s3://b/p", "plugins": [], "modules": None, "options": [], **changes}
    )


@pytest.fixture
def weighted(tmp_path):
    """A sweep file beside a weights file that it names by a relative path."""

    def made(folder="mine"):
        own = tmp_path / folder
        own.mkdir()
        (own / "net.safetensors").write_bytes(b"weights")
        (own / "s.yaml").write_text(
            "name: s\ndatasets: digits\nmodels: {name: test-convnet, weights: net.safetensors}\n"
            "methods: magnitude-l1\nspeedups: 2\nrecipe: quick\n"
        )
        return load_sweep(own / "s.yaml")

    return made


def test_weights_travel_and_are_the_same_from_two_machines(weighted, tmp_path):
    sent, again = _submission(weighted("here")), _submission(weighted("there"))
    assert sent.hash == again.hash
    target = tmp_path / "job"
    target.mkdir()
    sent.stage(target)
    (file,) = (target / "weights").iterdir()
    assert file.read_bytes() == b"weights"
    assert str(tmp_path) not in (target / "sweep.yaml").read_text()
    arrived = resolve(load_sweep(target / "sweep.yaml"))
    assert [trial.trial_id for trial in arrived] == [trial.trial_id for trial in resolve(sent.sweep)]
    assert arrived[0].weights.path == str(file)


def test_weights_that_every_node_has_stay_where_they_are(weighted, tmp_path):
    sweep = weighted()
    for sent in (_submission(sweep, mounted=[tmp_path]), _submission(sweep, storage=str(tmp_path))):
        assert sent.weights == {}


def test_folders_are_compared_without_their_dots(weighted, tmp_path):
    sweep, dotted = weighted(), tmp_path / "mine" / ".." / "mine"
    assert _submission(sweep, mounted=[dotted]).weights == {}
    assert _submission(sweep, mounted=[tmp_path / "mine" / ".." / "other"]).weights
    rooted = sweep.model_copy(update={"data_roots": {"cifar10": str(tmp_path / "x" / ".." / "mine" / "cifar")}})
    with pytest.raises(UserError, match="data_roots: cifar10"):
        check_data(rooted, tmp_path / "mine" / "s.yaml", [])
    with pytest.raises(UserError, match="data_roots: cifar10"):  # leaves the mounted folder by ..
        check_data(rooted, tmp_path / "mine" / "s.yaml", [tmp_path / "x"])


def test_weights_that_are_too_big_are_named(weighted, monkeypatch):
    monkeypatch.setattr("raybench.execution.attachments.LIMIT", 3)
    with pytest.raises(UserError, match=r"net\.safetensors the biggest.*--mounted FOLDER"):
        _ = _submission(weighted()).hash


def test_data_beside_the_sweep_is_refused_by_name(tmp_path, capsys):
    (tmp_path / "cifar").mkdir()
    file = tmp_path / "s.yaml"
    file.write_text(
        "name: s\ndatasets: cifar10\nmodels: cifar-resnet20\nmethods: random\nspeedups: 2\nrecipe: quick\n"
        "data_roots: {cifar10: cifar}\n"
    )
    arguments = ["submit", str(file), "--address", "http://127.0.0.1:1", "--storage", "/mnt/x"]
    assert main(arguments) == 2
    assert f"data_roots: cifar10: found {tmp_path / 'cifar'}" in capsys.readouterr().err
    assert main([*arguments, "--mounted", str(tmp_path)]) == 2
    assert "no answer from" in capsys.readouterr().err


def test_a_worker_finds_weights_in_its_own_copy_of_the_job(weighted, tmp_path, monkeypatch):
    from raybench.execution.message import decode_unit, encode_unit
    from raybench.plan.records import Unit

    (trial,) = resolve(weighted("driver"))
    monkeypatch.chdir(tmp_path / "driver")
    unit = Unit(trial.trial_id, "cell", (trial,), ("0123",), "short")
    text = encode_unit(unit)
    assert decode_unit(text) == unit
    (tmp_path / "driver").rename(tmp_path / "node")
    monkeypatch.chdir(tmp_path / "node")
    assert decode_unit(text).trials[0].weights.path == str(tmp_path / "node/net.safetensors")
