"""`raybench plot`, the drawings behind it, and the leaderboard as LaTeX"""

import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
import zlib

import pytest

from raybench.cli.main import main
from raybench.reports.drawing.shapes import Box, Drawing, Line, Mark, Text
from raybench.reports.drawing.svg import page_svg
from raybench.reports.drawing.writers import encoded
from raybench.reports.plots.axes import ticks
from raybench.reports.plots.pareto import ParetoPoint, front, pareto
from raybench.reports.statistics.critical_difference import CAVEAT
from tests.unit.report_stores import MARKUP, seeded, store
from tests.unit.result_rows import failure, row, trial


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plots")
    store(folder, seeded(("cifar-resnet20", "cifar-resnet56", "vit-nano")), [failure(trial("hrank"))])
    return str(folder)


@pytest.fixture(scope="module")
def finished(results):
    from raybench.results.load import load_results

    rows = load_results(results, columns=["trial_id", "status"])
    return list(rows[rows["status"] == "ok"]["trial_id"])


ONE_BOARD = ["--model", "cifar-resnet20"]
KINDS = {
    "pareto": ONE_BOARD,
    "ranks": ["--speedup", "4"],
    "critical": ["--speedup", "average"],
    "matrix": ["--speedup", "2"],
    "curves": ["--trial", "{0}", "--trial", "{1}"],
    "widths": ["--trial", "{0}"],
}


def texts(file):
    return [one.text for one in ET.parse(file).getroot().iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_drawn(results, finished, tmp_path, kind):
    options = [option.format(*finished) for option in KINDS[kind]]
    file = tmp_path / "plot.svg"
    assert main(["plot", results, "--kind", kind, "-o", str(file), *options]) == 0
    assert ET.parse(file).getroot().get("width") == "240pt"
    assert len(texts(file)) > 1


@pytest.mark.parametrize(("ending", "start"), [("svg", b"<svg"), ("pdf", b"%PDF-1.5"), ("png", b"\x89PNG")])
def test_the_ending_is_the_format(results, finished, tmp_path, ending, start):
    file = tmp_path / f"plot.{ending}"
    options = ["--kind", "widths", "--trial", finished[0], "--size", "page"]
    assert main(["plot", results, *options, "-o", str(file)]) == 0
    assert file.read_bytes().startswith(start)


@pytest.mark.parametrize("goal", ["speedup", "latency", "parameters"])
def test_accuracy_is_drawn_against_each_gain(results, tmp_path, goal):
    file = tmp_path / "plot.svg"
    assert main(["plot", results, "--kind", "pareto", *ONE_BOARD, "--against", goal, "-o", str(file)]) == 0
    assert any(goal.rstrip("s")[:5] in (text or "") for text in texts(file))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--kind", "pareto"], "3 boards match, expected one"),
        (["--kind", "ranks"], "2 rankings match, expected one"),
        (["--kind", "pareto", "--model", "cifar-resnet2"], "Did you mean 'cifar-resnet20'?"),
        (["--kind", "curves"], "expected --trial TRIAL_ID"),
        (["--kind", "widths", "--trial", "zz"], "no trial 'zz'"),
        (["--kind", "ranks", "--speedup", "16"], "no finished cell matches"),
        (["--kind", "critical", "--speedup", "4", "--model", "vit-nano", "--protocol", "other"], "no finished cell"),
        (["--kind", "pareto", "-o", "x.gif"], "expected one of .svg, .pdf, .png"),
        (["--kind", "widths", "--trial", "{0}", "-o", "no/folder/x.svg"], "can't be written"),
    ],
)
def test_mistakes_are_told_in_a_line(results, finished, tmp_path, monkeypatch, capsys, options, words):
    monkeypatch.chdir(tmp_path)
    options = [option.format(*finished) for option in options]
    assert main(["plot", results, *(options if "-o" in options else [*options, "-o", "x.svg"])]) == 2
    assert words in capsys.readouterr().err


def test_an_empty_store_has_no_plot(tmp_path, capsys):
    store(tmp_path)
    assert main(["plot", str(tmp_path), "--kind", "ranks", "-o", str(tmp_path / "x.svg")]) == 2
    assert "no finished cell" in capsys.readouterr().err


def test_names_are_text_in_every_format():
    shapes = (
        Text(1, 9, f"{MARKUP} \x00 \u202e (x\\"),
        Mark(3, 3, "c0", "diamond", tip='"><b>'),
        Line(((0, 0), (9, 9))),
    )
    drawing = Drawing(90, 20, (*shapes, Box(1, 1, 5, 5, opacity=0.5)), MARKUP, '"quoted"')
    for svg in (page_svg(drawing), encoded(drawing, ".svg").decode()):
        root = ET.fromstring(svg)
        assert not [one for one in root.iter() if one.tag.endswith(("img", "}b"))]
    pdf = encoded(drawing, ".pdf")
    stream = re.search(rb"stream\n(.*?)\nendstream", pdf, re.DOTALL)[1]
    assert b"\\(x\\\\" in zlib.decompress(stream)
    assert encoded(drawing, ".png")


def test_objects_of_a_pdf_lie_where_its_table_says():
    pdf = encoded(Drawing(90, 20, (Text(1, 9, "Δ ± ≈"),), "a title"), ".pdf")
    start = int(re.search(rb"startxref\n(\d+)", pdf)[1])
    assert pdf[start:].startswith(b"xref")
    for number, place in enumerate(re.findall(rb"(\d{10}) 00000 n", pdf), 1):
        assert pdf[int(place) :].startswith(f"{number} 0 obj".encode())


@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="pdftotext is not installed")
def test_text_of_a_pdf_can_be_copied(tmp_path):
    (tmp_path / "x.pdf").write_bytes(encoded(Drawing(200, 20, (Text(1, 9, "magnitude-l2 ± 0.1"),), "t"), ".pdf"))
    done = subprocess.run(["pdftotext", tmp_path / "x.pdf", "-"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "magnitude-l2 ± 0.1"


@pytest.mark.parametrize("size", ["column", "page"])
def test_a_file_names_every_method_whole(results, tmp_path, size):
    """The pages have the names beside the plot; a file has nothing beside it."""
    names = {"magnitude-l2", "lamp", "taylor", "random", "magnitude-l2+group-norm"}
    for kind in ("pareto", "ranks"):
        file = tmp_path / f"{kind}.svg"
        assert main(["plot", results, "--kind", kind, "--size", size, "-o", str(file), *KINDS[kind]]) == 0
        assert names <= set(texts(file)), kind
        height = float(ET.parse(file).getroot().get("height").removesuffix("pt"))
        found = ET.parse(file).getroot().iter("{http://www.w3.org/2000/svg}text")
        assert all(0 < float(one.get("y")) < height for one in found)


def test_the_front_has_what_nothing_beats():
    points = [
        ParetoPoint(name, x, y, "")
        for name, x, y in [("a", 2, 90), ("b", 2, 91), ("c", 4, 88), ("d", 4, 91), ("e", 8, 80)]
    ]
    assert [p.series for p in front(points, more=True)] == ["d", "e"]
    assert [p.series for p in front(points, more=False)] == ["b"]


@pytest.mark.parametrize("points", [[], [ParetoPoint("a", 2, 90, "")], [ParetoPoint(n, 2.0, 90.0, "") for n in "ab"]])
def test_few_or_equal_points_are_drawn(points):
    assert page_svg(pareto(points, "speedup", "top1, %", "t")).startswith("<svg")


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 400), (1e-9, 3e-9), (88.1, 88.3), (1e6, 5e7)])
def test_ticks_are_few_and_inside(low, high):
    found = list(ticks(low, high))
    assert 2 <= len(found) <= 12
    assert all(low - 1e-9 * abs(low) <= tick <= high + 1e-9 * high for tick in found)


def test_the_caveat_stands_beside_the_critical_difference():
    assert "depend on which methods are in the pool" in CAVEAT


def test_latex_marks_the_best_and_the_tied(results, tmp_path):
    file = tmp_path / "board.tex"
    assert main(["leaderboard", results, *ONE_BOARD, "--speedup", "4", "--track", "criteria", "-o", str(file)]) == 0
    text = file.read_text()
    assert re.findall(r"\\textbf\{(\S+)\}", text) == ["94.10$\\pm$0.10"]
    assert "\\underline" not in text  # lamp is 0.6 below with a spread of 0.1
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == text.count(r"\begin{tabular}") == 1
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len({line.count(" & ") for line in rows}) == 1


def test_latex_underlines_ties_and_escapes_names(tmp_path):
    rows = []
    for seed in range(3):
        for name, final in (("my_net & 50 %", 95.0), ("\\input{x}", 95.05)):
            rows.append(row(trial(name, seed=seed), metric_final=final + 0.3 * seed))
    store(tmp_path / "st", rows)
    assert main(["leaderboard", str(tmp_path / "st"), "-o", str(tmp_path / "x.tex")]) == 0
    text = (tmp_path / "x.tex").read_text()
    assert r"\underline{95.30" in text
    assert r"my\_net \& 50 \%" in text
    assert "\\input{" not in text
