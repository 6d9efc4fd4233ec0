"""`raybench report`: what the pages hold for stores of every kind, and that nothing in them runs or leads outside."""

import base64
import hashlib
import html.parser
import json
import re
import zlib

import pytest

from raybench.cli.main import main
from raybench.reports.pages import site
from raybench.reports.pages.names import slug
from raybench.reports.pages.site import write_report
from raybench.storage.open import open_existing
from tests.unit.report_stores import hostile, seeded, store
from tests.unit.result_rows import failure, row, trial


def unpacked(text):
    return json.loads(zlib.decompress(base64.b64decode(text)))


def block(folder, name):
    found = re.fullmatch(r'raybench\.block\("[\w]+","(.*)"\)\n', (folder / "data" / f"{name}.js").read_text())
    return unpacked(found[1])


class Tags(html.parser.HTMLParser):
    """Elements and attributes of a page, as a browser reads them."""

    def __init__(self, text):
        super().__init__()
        self.found, self.ids = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A report of two models with three seeds, and of a failure."""
    folder = tmp_path_factory.mktemp("report")
    rows = seeded(("cifar-resnet20", "cifar-resnet56", "vit-nano"))
    written = store(folder / "st", rows, [failure(trial("hrank", speedup=8.0), message="singular <b>matrix</b>")])
    write_report(written, folder / "pages", about=folder / "st")
    write_report(written, folder / "one.html", single=True)
    return folder


def page(folder, name):
    return (folder / "pages" / f"{name}.html").read_text()


def test_the_folder_has_every_page(made):
    names = {file.stem for file in (made / "pages").glob("*.html")}
    expected = {
        "index",
        "boards",
        "ranks",
        "methods",
        "findings",
        "compare",
        "trials",
        "trial",
        "failures",
        "downloads",
    }
    assert expected <= names
    assert {"board-digits-vit-nano-protected-global", "method-magnitude-l2+group-norm"} <= names


def test_the_overview_names_the_best_and_what_failed(made):
    text = page(made, "index")
    assert "magnitude-l2+group-norm" in text
    assert "singular &lt;b&gt;matrix&lt;/b&gt;" in text
    assert re.search(r"<b>1</b><span>failed", text)


def test_a_board_has_tabs_ties_and_plots(made):
    text = page(made, "board-digits-cifar-resnet20-protected-global")
    assert re.findall(r'role="tab"[^>]*>([^<]+)<', text) == ["2x", "4x", "average"]
    assert text.count('<svg class="drawing"') == 3
    assert "tied</span>" in text
    assert "Pareto front" in text


def test_two_seeds_are_two_points(tmp_path):
    rows = [
        row(trial(n, seed=s), metric_final=final - s * place)
        for place, (n, final) in enumerate((("lamp", 95.0), ("cp", 94.0)))
        for s in (0, 1)
    ]
    write_report(store(tmp_path / "st", rows), tmp_path / "out")
    text = (tmp_path / "out" / "board-digits-cifar-resnet20-protected-global.html").read_text()
    assert "1.50 <small>(1.00, 2.00)</small>" in text
    assert "2 seeds: no intervals; 3 are needed" in text
    assert "2x: 93.50 ± 0.71 % (n = 2)" in text
    assert "behind the best <small>points (each seed)</small>" in text
    assert "interval</small>" not in text  # a column of dashes
    assert "reg <small>" not in text


def test_a_method_without_others_is_not_called_best(tmp_path):
    write_report(store(tmp_path / "st", [row(trial("lamp", seed=s)) for s in (0, 1)]), tmp_path / "out")
    for name in ("board-digits-cifar-resnet20-protected-global", "method-lamp", "methods"):
        text = (tmp_path / "out" / f"{name}.html").read_text()
        assert "lamp" in text
        assert 'class="chip best"' not in text


def test_links_lead_to_pages_that_are_there(made):
    for file in (made / "pages").glob("*.html"):
        for tag, attributes in Tags(file.read_text()).found:
            address = attributes.get("href") or attributes.get("src") or ""
            if address and not address.startswith("#"):
                assert (made / "pages" / address.partition("#")[0]).exists(), (file.name, tag, address)


@pytest.mark.parametrize(
    "name", ["pages/index.html", "pages/ranks.html", "one.html", "pages/report.js", "pages/report.css"]
)
def test_nothing_outside_is_asked_for(made, name):
    text = (made / name).read_text()
    addresses = set(re.findall(r"https?://[\w.]+", text)) - {"http://www.w3.org"}
    assert not addresses
    assert "@import" not in text


def test_every_table_and_field_has_a_name(made):
    for file in [*(made / "pages").glob("*.html"), made / "one.html"]:
        text = file.read_text()
        assert len(re.findall("<table", text)) == len(re.findall("<caption", text)), file.name
        tags = Tags(text)
        assert len(tags.ids) == len(set(tags.ids)), file.name
        assert all(a.get("aria-label") or a.get("aria-hidden") for tag, a in tags.found if tag == "svg"), file.name
        assert all(a["aria-controls"] in tags.ids for _, a in tags.found if a.get("role") == "tab"), file.name
        assert tags.found[0][1]["lang"] == "en" if tags.found[0][0] == "html" else True


def test_the_trials_block_holds_every_row(made):
    index = block(made / "pages", "index")
    rows = block(made / "pages", "t0")
    ids = index["columns"]["trial_id"]
    assert len(ids) == len(set(ids)) == len(rows["made"]) == 91
    at = next(i for i, status in enumerate(index["columns"]["status"]) if status == "ok")
    stage, epochs, metrics, losses = rows["curves"][rows["curve"][at][0]]
    assert (stage, epochs) == ("finetune", 2)
    assert (metrics, losses) == ([9100, 100], [1000, -500])
    names, before, after = rows["layers"][rows["layer"][at]]
    assert (rows["names"][names], before, after) == (["conv1"], [16], [8])
    assert rows["machines"][rows["made"][at]]["device_name"] == "a processor"


def test_blocks_of_several_chunks_are_of_their_own_rows(tmp_path, monkeypatch):
    """Slices of Arrow's lists keep the whole list behind them."""
    monkeypatch.setattr("raybench.reports.pages.blocks.CHUNK", 2)
    layers = [
        [{"layer": f"l{i}", "out_before": 8, "out_after": i + 1, "in_before": 1, "in_after": 1}] for i in range(5)
    ]
    rows = [row(trial(seed=i), layers=layers[i], metric_final=90.0 + i) for i in range(5)]
    write_report(store(tmp_path / "st", rows), tmp_path / "pages")
    index = block(tmp_path / "pages", "index")
    for at, final in enumerate(index["columns"]["metric_final"]):
        chunk = block(tmp_path / "pages", f"t{at // 2}")
        names, _, after = chunk["layers"][chunk["layer"][at % 2]]
        seed = round(final - 90)
        assert (chunk["names"][names], after) == ([f"l{seed}"], [seed + 1])


def test_long_curves_are_thinned_and_gaps_filled(tmp_path):
    curve = [
        {"stage": "finetune", "epoch": e, "lr": 0.1, "train_loss": None, "metric": 50.0 + e / 10} for e in range(1, 201)
    ]
    curve[3]["metric"] = None
    write_report(store(tmp_path / "st", [row(curve=curve)]), tmp_path / "pages")
    _, epochs, metrics, losses = block(tmp_path / "pages", "t0")["curves"][0]
    assert len(epochs) == len(metrics) <= 30
    assert (epochs[0], epochs[-1], sum(metrics), losses) == (1, 200, 7000, None)


def test_no_page_has_styles_or_handlers_of_its_own(made):
    """Policies of servers, and the one of the single file, would not apply them."""
    for file in [*(made / "pages").glob("*.html"), made / "one.html"]:
        own = {name for _, attributes in Tags(file.read_text()).found for name in attributes}
        assert not [name for name in own if name == "style" or name.startswith("on")], file.name
    assert not re.search(r"style: |setAttribute\(.style|\.on\w+ = [\"']", (made / "pages" / "report.js").read_text())


def test_one_file_runs_its_own_script_alone(made):
    text = (made / "one.html").read_text()
    policy = next(a["content"] for tag, a in Tags(text).found if "http-equiv" in a)
    assert "unsafe" not in policy
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        content = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}'" in policy


def test_one_file_holds_it_all(made):
    text = (made / "one.html").read_text()
    tags = Tags(text)
    assert not [a for _, a in tags.found if a.get("src")]
    assert "Content-Security-Policy" in text
    assert {"page-index", "page-trial", "page-downloads", "block-index", "block-t0"} <= set(tags.ids)
    for _, attributes in tags.found:
        address = attributes.get("href", "#main")
        if address.startswith("#") and not address.startswith("#trial/"):
            assert address == "#main" or f"page-{address[1:]}" in tags.ids, address


def test_pages_of_a_large_file_are_packed(tmp_path, monkeypatch):
    written = store(tmp_path / "st", seeded())
    whole = write_report(written, tmp_path / "whole.html", single=True)
    monkeypatch.setattr(site, "PACKED_FROM", whole.bytes // 2)
    packed = write_report(written, tmp_path / "packed.html", single=True)
    text = packed.path.read_text()
    assert packed.bytes < 0.8 * whole.bytes
    assert "Best method for each model" in text  # the first page
    assert "behind the best" not in text
    found = re.search(r'id="block-page-board-digits-cifar-resnet20-protected-global">([^<]+)<', text)
    assert "behind the best" in unpacked(found[1])


@pytest.mark.parametrize("single", [False, True])
def test_names_with_markup_stay_text(tmp_path, single):
    rows, failures = hostile()
    written = store(tmp_path / "st", rows, failures)
    write_report(written, tmp_path / "out", single=single)
    files = [tmp_path / "out"] if single else list((tmp_path / "out").rglob("*.html"))
    for file in files:
        assert file.resolve().is_relative_to(tmp_path / "out")
        tags = Tags(file.read_text())
        scripts = [a for tag, a in tags.found if tag == "script"]
        assert len(scripts) == (sum(a.get("type") == "text/plain" for a in scripts) + 1 if single else 1)
        assert "\u202e" not in file.read_text()
        assert not [a for tag, a in tags.found if tag == "img" or any(name.startswith("on") for name in a)]
    assert "49" not in "".join(re.findall(r"alert\(2\)&lt;/script&gt; (\S+)", files[0].read_text()))


@pytest.mark.parametrize(
    ("rows", "failures", "words"),
    [
        ([], [], "There are no results here yet"),
        ([], [failure(message="disk full")], "No cell has finished"),
        ([row()], [], "1 method on 1 model"),
    ],
)
@pytest.mark.parametrize("single", [False, True])
def test_a_store_with_little_makes_pages_that_say_so(tmp_path, rows, failures, words, single):
    report = write_report(store(tmp_path / "st", rows, failures), tmp_path / "out", single=single)
    text = (report.path if single else report.path / "index.html").read_text()
    assert words in text
    assert report.pages >= 10
    assert single or (report.path / "data" / "ranks.parquet").exists()


def test_a_store_may_grow_while_it_is_read(tmp_path, monkeypatch):
    """A cell published after the table was read is in no page, and disturbs none."""
    from raybench.reports.pages import site

    written = store(tmp_path / "st", seeded())
    real = site.read_content

    def growing(source):
        content = real(source)
        source.publish(row(trial("fpgm", speedup=16.0)))
        return content

    monkeypatch.setattr(site, "read_content", growing)
    write_report(written, tmp_path / "out")
    assert "fpgm" not in (tmp_path / "out" / "index.html").read_text()


def test_ratios_and_several_protocols_have_their_own_sections(tmp_path):
    rows = [*seeded(), *seeded(protocol="pruningbench")[:5], row(trial(ratio=0.5))]
    write_report(store(tmp_path / "st", rows), tmp_path / "out")
    text = (tmp_path / "out" / "board-digits-cifar-resnet20-protected-global.html").read_text()
    assert "ratio 0.5</button>" in text
    assert "Protocol pruningbench" in text


ODD = {
    "ratios alone": [row(trial(name, ratio=0.5)) for name in ("lamp", "random")],
    "no layers, curves and timings": [
        row(layers=[], curve=[], latency_ms=None, step_time_s=None, timing_reason="busy")
    ],
    "no seed in common": [
        row(trial(n, seed=s), metric_final=90.0 + s) for n, s in (("lamp", 0), ("random", 1), ("cp", 2))
    ],
    "equal everywhere": [
        row(trial(n, seed=s), metric_final=90.0) for n in ("lamp", "random", "cp", "taylor") for s in range(6)
    ],
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.filterwarnings("error")
def test_odd_stores_make_pages(tmp_path, name):
    assert write_report(store(tmp_path / "st", ODD[name]), tmp_path / "out").pages > 10


def test_the_command_writes_and_says_where(tmp_path, capsys):
    store(tmp_path / "st", [row()])
    assert main(["report", str(tmp_path / "st"), "-o", str(tmp_path / "out")]) == 0
    assert f"open {tmp_path / 'out' / 'index.html'}" in capsys.readouterr().out
    assert (tmp_path / "out" / "data" / "trials.parquet").read_bytes()[:4] == b"PAR1"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-o", "a-file"], "found a file, expected a folder"),
        (["--single-file", "a-folder"], "found a folder, expected the name of a file"),
        (["--single-file", "no/such/folder/x.html"], "can't be written"),
        (["-o", "x", "--single-file", "y"], "not allowed with"),
    ],
)
def test_places_that_can_not_be_written_are_named(tmp_path, monkeypatch, capsys, options, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-file").touch()
    (tmp_path / "a-folder").mkdir()
    store(tmp_path / "st", [row()])
    try:
        code = main(["report", str(tmp_path / "st"), *options])
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    assert words in capsys.readouterr().err


def test_trials_link_to_the_files_of_their_network_where_they_are(tmp_path):
    written = store(tmp_path / "st", [row(artifact="artifacts/1234")])
    write_report(written, tmp_path / "merged", about=tmp_path / "st")
    assert 'data-files=""' in (tmp_path / "merged" / "trial.html").read_text()
    (tmp_path / "st/artifacts").mkdir()
    write_report(written, tmp_path / "pages", about=tmp_path / "st")
    assert 'data-files="../st/"' in (tmp_path / "pages" / "trial.html").read_text()
    assert open_existing(str(tmp_path / "st"))


@pytest.mark.parametrize("text", ["../../etc/passwd", "a/b", "x" * 300, "", "<b>", "\ud800", "CON", "é"])
def test_names_of_pages_are_plain(text):
    assert re.fullmatch(r"[A-Za-z0-9+_-]{1,120}", slug("board", text))
    assert slug("board", text) != slug("board", f"{text}?")
