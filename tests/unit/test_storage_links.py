"""Links in a storage that lead out of it, as an archive of a stranger may hold: nothing goes through them."""

import json
import os
import time

import pytest

from raybench.cli.main import main
from raybench.errors import UserError
from raybench.storage.gc import find_garbage
from raybench.storage.leases import stamp
from raybench.storage.local import LocalStorage
from raybench.storage.objects import _manifest_in
from raybench.storage.open import FOLDERS, check_writable

READ = (".tmp", "results", "stages", "checkpoints", "runs", "stops", "leases", "damaged")  # by gc
SWEEP = "name: s\ndatasets: digits\nmodels: test-convnet\nmethods: random\nspeedups: 2\nrecipe: quick\n"


@pytest.fixture
def home(tmp_path):
    """A folder of somebody, with old files, beside an empty storage."""
    home = tmp_path / "home"
    (home / "documents").mkdir(parents=True)
    for file in ("documents/thesis", "key"):
        (home / file).write_text("mine")
        os.utime(home / file, (1e9, 1e9))
    os.utime(home / "documents", (1e9, 1e9))
    (tmp_path / "store").mkdir()
    return home


def link(tmp_path, folder, to):
    """`folder` of the storage as a link."""
    place = tmp_path / "store" / folder
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(to)


@pytest.mark.parametrize("folder", [".tmp", *FOLDERS, "stages/0123456789abcdef", "damaged/stages"])
def test_gc_removes_nothing_that_a_link_leads_to(tmp_path, home, folder, capsys):
    (tmp_path / "s.yaml").write_text(SWEEP)
    link(tmp_path, folder, home)
    assert main(["gc", str(tmp_path / "store"), "--delete", "--keep", str(tmp_path / "s.yaml"), "--older", "1"]) == 0
    assert (home / "documents/thesis").read_text() == (home / "key").read_text() == "mine"
    read = folder.partition("/")[0] in READ
    assert (f"store/{folder}: found a link to {home}, expected a folder" in capsys.readouterr().err) == read


@pytest.mark.parametrize("call", [
    lambda storage: storage.create("stages/x", b""),
    lambda storage: storage.replace("stages/x", b""),
    lambda storage: storage.delete("stages/key"),
    lambda storage: storage.rename("stages/key", "damaged/key"),
    lambda storage: storage.rename("other", "stages/other"),
], ids=["create", "replace", "delete", "rename from", "rename to"])  # fmt: skip
def test_no_call_changes_what_a_link_leads_to(tmp_path, home, call):
    link(tmp_path, "stages", home)
    storage = LocalStorage(tmp_path / "store")
    storage.create("other", b"")
    with pytest.raises(UserError, match=r"found a link to .*home, expected a folder"):
        call(storage)
    assert sorted(path.name for path in home.iterdir()) == ["documents", "key"]


def test_no_entry_is_published_into_what_a_link_leads_to(tmp_path, home):
    link(tmp_path, "stages", home)
    (tmp_path / "entry").mkdir()
    with pytest.raises(UserError, match="expected a folder"):
        LocalStorage(tmp_path / "store").publish("stages/x", tmp_path / "entry")


def test_unfinished_writes_are_never_those_of_another_folder(tmp_path, home):
    link(tmp_path, ".tmp", home)
    storage = LocalStorage(tmp_path / "store")
    storage.discard("documents")
    with pytest.raises(UserError, match=r"\.tmp: found a link"):
        storage.create("runs/x", b"")
    assert (home / "documents/thesis").exists()


def test_a_link_among_the_unfinished_writes_goes_alone(tmp_path, home):
    link(tmp_path, ".tmp/x", home)
    storage = LocalStorage(tmp_path / "store")
    storage.discard("x")
    assert storage.leftovers(-1) == []
    assert (home / "documents/thesis").exists()


@pytest.mark.parametrize(
    "plan", ["../home/key", "/etc/passwd", "stages/0123456789abcdef", "plans/../x", "plans/", "plans/x/y"]
)
def test_the_plan_that_goes_with_a_run_is_a_plan(tmp_path, plan, capsys):
    storage = LocalStorage(tmp_path / "store")
    storage.create("stages/0123456789abcdef/x", b"")
    for run, age in (("first", 900), ("second", 800)):
        clocks = {"time": time.time() - age, "since_boot": stamp(60)["since_boot"] - age}
        record = {**stamp(60), **clocks, "status": "ended", "sweep": "s", "plan": plan}
        storage.create(f"runs/{run}.json", json.dumps(record).encode())
    assert [one for one in find_garbage(storage, []) if one.kind == "plan"] == []
    assert main(["gc", storage.url, "--delete"]) == 0
    assert storage.has("stages/0123456789abcdef/x")


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("kind", ["a file", "a link to "])
def test_a_run_says_before_any_work_what_lies_where_its_folders_should(tmp_path, folder, kind):
    place = tmp_path / folder
    place.parent.mkdir(parents=True, exist_ok=True)
    if kind == "a file":
        place.write_text("")
    else:
        place.symlink_to("/proc")
    with pytest.raises(UserError, match=f"{folder}: found {kind}.*expected a folder"):
        check_writable(LocalStorage(tmp_path))
    place.unlink()
    check_writable(LocalStorage(tmp_path))


@pytest.mark.parametrize("path", ["/etc/passwd", "a//b", "a/", "/x", ""])
def test_a_manifest_of_a_bucket_names_no_file_elsewhere(path):
    good = {"upload": "u", "files": {"a/b": 1}}
    assert _manifest_in(json.dumps(good).encode()) == good
    for bad in ({**good, "upload": path}, {**good, "files": {path: 1}}):
        assert _manifest_in(json.dumps(bad).encode()) is None


def test_a_folder_that_is_made_meanwhile_is_no_file(tmp_path, monkeypatch):
    """Several looks at a folder that another process is making took it for a file."""
    look = os.stat

    def late(path, **options):
        try:
            return look(path, **options)
        except FileNotFoundError:
            if str(path).endswith("results"):
                os.mkdir(path)
            raise

    storage = LocalStorage(tmp_path)
    monkeypatch.setattr(os, "stat", late)
    assert storage.not_listed("results") == ""
