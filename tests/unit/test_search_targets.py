"""What a search may be asked for: MACs, parameters, latency; what is out of reach, and how far the winner is off."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from raybench.cli.main import main
from raybench.cli.search_text import _told
from raybench.errors import UserError
from raybench.groups.cost import count_macs
from raybench.pipeline import measure
from raybench.search.asked import Asked, dimensions_of
from raybench.search.cells import Sample
from raybench.search.run import Found
from raybench.search.space import NONE, Point, Space, samples
from raybench.sweep.target import Amount

PLACES = [(depth, size) for depth in (1.0, 0.75, 0.5, 0.25) for size in (None, 28, 24, 16)]
TIMES = {(d, s): 2.0 + 8.0 * d * ((s or 32) / 32) for d, s in PLACES}

MACS_A_MS = 30_000

TEXT = """
name: s
datasets: digits
models: cifar-resnet20
methods: magnitude-l2
speedups: 2
recipe: {name: t, base: {epochs: 0, lr: 0.01}, finetune: {epochs: 0, lr: 0.01}, calibration_images: 16}
"""


def sample(got: float, reason: str | None = None) -> Sample:
    return Sample(Point(1.0, None, 2.0), "0" * 16, 1.0, 2.0, got, 1 / got, reason, 90.0, 90.0)


@pytest.fixture
def command(tmp_path: Path):
    (tmp_path / "s.yaml").write_text(TEXT)
    return ["search", str(tmp_path / "s.yaml"), "--local", "--storage", str(tmp_path / "results")]


def test_milliseconds_are_asked_as_milliseconds() -> None:
    space = Space(10.0, TIMES, 32, True, "latency_ms")
    assert space.cost_of(4.0) == 4.0
    assert space.amount_of(4.0) == 4.0
    assert space.point((0.5, 16), 1.0) == Point(0.5, 16, float(f"{10 / NONE:.3g}"))
    assert space.point((0.5, 16), 0.5) == Point(0.5, 16, 2.0)  # the place takes 4 ms, and time goes with the width
    found = samples(space, 4.0, 20, 0)
    assert found[0] == Point(1.0, None, 4.0)
    assert all(10 / 2.5**1.45 < one.speedup < 10 / 2.5**0.38 for one in found)
    assert [one.speedup for one in samples(Space(10.0, TIMES, 32, True, "latency"), 2.5, 20, 0)] == pytest.approx(
        [10 / one.speedup for one in found], rel=0.01
    )


@pytest.mark.parametrize(
    ("target", "got", "reason", "said"),
    [
        (Amount(4.0), 3.99, None, None),
        (
            Amount(4.0),
            3.8,
            "granularity",
            "comes to 3.8x, 5 % short of the 4x asked for: a single channel is too large",
        ),
        (Amount(4.0), 4.6, "blocks: the 3 removed blocks alone give 4.6x", "15 % past the 4x asked for: blocks: the 3"),
        (Amount(2.0, "params"), 1.5, None, "comes to 1.5x params, 25 % short of the 2x params asked for"),
        (Amount(2.0, "latency"), 1.92, None, None),
        (Amount(5.0, "latency_ms"), 6.0, None, "comes to 6 ms, 20 % short of the 5 ms asked for"),
        (Amount(5.0, "latency_ms"), 4.0, None, "comes to 4 ms, 20 % past the 5 ms asked for"),
    ],
)
def test_a_winner_that_misses_the_target_says_by_how_much(target, got, reason, said) -> None:
    found = Asked(target, ("depth",)).missed(sample(got, reason))
    assert said in found if said else found is None


def test_a_network_without_blocks_is_searched_without_depth(command, capsys) -> None:
    sweep = Path(command[1])
    sweep.write_text(sweep.read_text().replace("cifar-resnet20", "test-convnet"))
    assert main([*command, "--target", "2"]) == 2
    printed = capsys.readouterr().err
    assert "--dimensions depth: " in printed
    assert "without it: --dimensions width resolution" in " ".join(printed.split())


def test_a_sample_that_beats_the_winner_is_named() -> None:
    asked = Asked(Amount(2.0), ("width",), None, "polynomial", 0)
    winner, better = sample(2.0), replace(sample(2.0), trial_id="1" * 16, value=95.0)
    found = Found(Space(10.0, TIMES, 32, True, "macs"), samples=(better,), winner=winner)
    assert f"the best sample, cell {'1' * 16}, did better" in "\n".join(_told(found, asked, better))
    assert "did better" not in "\n".join(_told(replace(found, samples=(winner,)), asked, winner))


def test_parameters_dont_depend_on_the_size_of_images() -> None:
    assert dimensions_of(Amount(2.0, "params"), None) == ("depth", "width")
    assert dimensions_of(Amount(2.0), None) == ("depth", "width", "resolution")
    assert dimensions_of(Amount(2.0), ["width", "depth"]) == ("depth", "width")
    with pytest.raises(UserError, match="found resolution beside --target-params, expected depth, width"):
        dimensions_of(Amount(2.0, "params"), ["resolution"])


def test_parameters_are_met(command, capsys) -> None:
    assert main([*command, "--target-params", "2", "--samples", "6", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["target"], found["target_kind"], found["dimensions"]) == (2.0, "params", ["depth", "width"])
    assert found["winner"]["got"] == pytest.approx(2, rel=0.01)
    assert found["missed"] is None
    query = "SELECT trial_id, params_target, params_base / params AS got FROM trials"
    assert main(["query", command[-1], query, "--format", "json"]) == 0
    rows = {row["trial_id"]: row for row in json.loads(capsys.readouterr().out)}
    assert {one["trial_id"]: one["got"] for one in found["cells"]}.items() <= {
        key: pytest.approx(row["got"]) for key, row in rows.items()
    }.items()
    assert all(row["params_target"] for row in rows.values())


@pytest.mark.parametrize(("kind", "asked"), [("latency", "1.5x"), ("latency_ms", "1.4ms")])
def test_latency_is_met(command, capsys, monkeypatch, kind, asked) -> None:
    """A network takes 0.2 ms and as much time as it has MACs: on a busy machine real times say nothing."""
    known: dict[tuple, float] = {}

    def milliseconds(model, images) -> float:
        key = (str(model), images.shape)
        known[key] = known.get(key) or 0.2 + count_macs(model, images) / MACS_A_MS
        return known[key]

    monkeypatch.setattr(measure, "_milliseconds", milliseconds)
    file = Path(command[1])
    file.write_text(TEXT.replace("cifar-resnet20", "test-convnet") + "image_sizes: [8, 7, 6]\n")
    words = [*command, "--target-latency", asked, "--dimensions", "width", "resolution", "--samples", "6"]
    assert main([*words, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["target_kind"] == kind
    assert found["winner"]["got"] == pytest.approx(found["target"], rel=0.15)  # 8 channels make coarse steps
    assert (found["missed"] is None) == (found["winner"]["got"] == pytest.approx(found["target"], rel=0.05))
    assert len({one["image"] for one in found["cells"]}) > 1
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert f": {float(asked.rstrip('msx')):g}{'x latency' if kind == 'latency' else ' ms'} by width" in printed
    assert max(len(line) for line in printed.splitlines() if line.startswith("1.00")) <= 100


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--target", "4", "--dimensions", "depth"], "found 4x, expected at most 3.32x, the cost of the smallest"),
        (["--target-params", "900"], "found 900x params, expected at most"),
        (["--target-latency", "0.0001ms"], "found 0.0001 ms, expected at least"),
        (["--target-latency", "100000ms"], "found 100000 ms, but the uncut network takes"),
        (["--target-latency", "2x", "--address", "auto"], "--target-latency: found --address beside it"),
    ],
)
def test_what_is_out_of_reach_is_refused_before_training(command, capsys, options, said) -> None:
    words = [word for word in command if word != "--local"] if "--address" in options else command
    assert main([*words, *options]) == 2
    assert said in capsys.readouterr().err
    assert not list(Path(command[-1]).glob("stages/*"))


def test_with_one_network_at_the_target_there_is_nothing_to_choose(command, capsys) -> None:
    assert main([*command, "--target", "2", "--dimensions", "width"]) == 0
    printed = capsys.readouterr()
    assert "nothing to choose: one network of these dimensions comes to 2x: depth 1, images of 8 pixels" in printed.err
    assert "polynomial of degree" not in printed.out
    assert "winner" in printed.out


def test_blocks_alone_are_one_cell_each_and_the_winner_says_that_it_is_past_the_target(command, capsys) -> None:
    words = [*command, "--target", "1.6", "--dimensions", "depth", "--samples", "4"]
    assert main([*words, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["winner"]["trial_id"] in {one["trial_id"] for one in found["cells"]}
    assert " past the 1.6x asked for" in found["missed"]
    assert main(words) == 0
    assert found["missed"] in capsys.readouterr().out
