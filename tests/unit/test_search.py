"""The search over depth, width and image size: the fit, its optimum, the samples and the command."""

from __future__ import annotations

import importlib.util
import json
from math import sqrt

import numpy as np
import pytest

from raybench.cli.main import main
from raybench.errors import UserError
from raybench.execution.searchers import optuna_search
from raybench.search.fit import fit, terms
from raybench.search.optimum import optimum
from raybench.search.space import Point, Space, samples

PLACES = [(depth, size) for depth in (1.0, 0.75, 0.5, 0.25) for size in (None, 28, 24, 16)]
SPACE = Space(1000, {(d, s): round(1000 * d * ((s or 32) / 32) ** 2) for d, s in PLACES}, 32, True)

TEXT = """
name: s
datasets: digits
models: test-convnet
methods: [magnitude-l2, random]
speedups: 2
image_sizes: [8, 6]
recipe: {name: t, base: {epochs: 0, lr: 0.01}, finetune: {epochs: 0, lr: 0.01}, calibration_images: 16}
"""


def accuracy(point):
    d, w, r = point
    return 90 - 20 * (1 - d) ** 2 - 30 * (w - 0.9) ** 2 - 60 * (1 - r) ** 2 + 5 * d * w


@pytest.fixture
def points():
    return np.random.default_rng(0).uniform(0.3, 1, (14, 3)).tolist()


def test_a_polynomial_is_recovered(points) -> None:
    found = fit(points, [accuracy(point) for point in points])
    others = np.random.default_rng(1).uniform(0.3, 1, (50, 3))
    np.testing.assert_allclose(found(others), [accuracy(point) for point in others], atol=1e-9)
    assert found.residual < 1e-9
    assert found.left_out < 1e-8
    assert len(found.coefficients) == 10


def test_the_error_is_that_of_fits_without_one_sample(points) -> None:
    values = [accuracy(p) + noise for p, noise in zip(points, np.random.default_rng(2).normal(size=14), strict=True)]
    off = []
    for left in range(14):
        rest = [i for i in range(14) if i != left]
        scaled = fit([points[i] for i in rest], [values[i] for i in rest])
        off.append(values[left] - scaled([points[left]])[0])
    assert fit(points, values).left_out == pytest.approx(np.sqrt(np.mean(np.square(off))))
    assert fit(points[:10], values[:10]).left_out is None


def test_too_few_samples_are_refused(points) -> None:
    with pytest.raises(UserError, match="the fit has 9 samples for 10 coefficients of degree 2: --samples"):
        fit(points[:9], [1.0] * 9)
    with pytest.raises(UserError, match="the fit has 0 samples"):
        fit([], [])


def test_samples_on_a_line_say_nothing_beside_it() -> None:
    on_it = [(0.4, 0.4), (0.6, 0.6), (0.8, 0.8), (1.0, 1.0), (0.5, 0.5), (0.9, 0.9)]
    found = fit(on_it, [10 * x - x * y for x, y in on_it])
    assert (found.rank, len(found.coefficients)) == (3, 6)
    assert found.residual < 1e-9
    assert found([(0.7, 0.7)])[0] == pytest.approx(7 - 0.49)
    assert found.knows([*on_it, (0.7, 0.7), (0.6, 0.8), (1.0, 0.4)]).tolist() == [True] * 7 + [False] * 2


def test_a_variable_of_two_values_has_no_square() -> None:
    assert terms([(1.0, 0.5), (0.5, 0.7), (1.0, 0.9)]).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1]]


@pytest.mark.parametrize("target", [1.5, 2.0, 4.0])
@pytest.mark.parametrize("width", [True, False])
def test_the_optimum_is_the_best_of_all_places_at_the_cost(target, width) -> None:
    space = Space(SPACE.whole, SPACE.uncut, SPACE.own, width)
    found = optimum(
        space,
        lambda at: np.array([accuracy(point) for point in at]),
        lambda at: np.array([point[1] >= 0.4 for point in at]),
        target,
    )
    best = []
    for depth, size in PLACES:
        share, r = depth * ((size or 32) / 32) ** 2, (size or 32) / 32
        w = min(1.0, sqrt(1 / target / share))
        if share * target <= 1.005 or (width and w >= 0.4):
            best.append((accuracy((depth, w, r)), depth, size))
    value, depth, size = max(best, key=lambda one: one[0])
    assert found.place == (depth, size)
    assert found.predicted == pytest.approx(value, abs=0.1)  # MACs are whole numbers


def test_places_that_come_to_the_target_are_known_before_samples() -> None:
    assert Space(1000, SPACE.uncut, 32, False).reaching(50) == []
    assert Space(1000, SPACE.uncut, 32, False).reaching(16) == [(0.25, 16)]
    assert Space(1000, SPACE.uncut, 32, True).reaching(50) == PLACES
    assert optimum(SPACE, len, lambda at: np.zeros(len(at), dtype=bool), 3) is None


def test_a_fit_knows_its_samples_and_nothing_beyond_them() -> None:
    square = [(x, y) for x in (0.0, 0.5, 1.0) for y in (0.0, 0.5, 1.0) if (x, y) != (1.0, 1.0)]
    found = fit(square, [0.0] * 8)
    assert found.knows(square).all()
    assert found.knows([(0.4, 0.6), (1.1, 0.5), (0.5, -0.2), (1.0, 1.0)]).tolist() == [True, False, False, False]


def test_samples_are_different_even_and_start_at_the_whole_network() -> None:
    found = samples(SPACE, 3.0, 15, seed=0)
    assert found == samples(SPACE, 3.0, 15, seed=0) != samples(SPACE, 3.0, 15, seed=1)
    assert found[0] == Point(1.0, None, 3.0)
    assert len(set(found)) == 15
    assert {p.depth for p in found} == {1.0, 0.75, 0.5, 0.25}
    assert len({p.size for p in found}) == 4
    assert all(3**0.39 < p.speedup < 3**1.41 for p in found)
    blocks = samples(Space(1000, SPACE.uncut, 32, False), 3.0, 99, seed=0)
    assert {(p.depth, p.size) for p in blocks} == set(PLACES)
    assert {p.speedup for p in blocks} == {1.01}


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """(arguments of a search, its storage)."""
    folder = tmp_path_factory.mktemp("search")
    (folder / "s.yaml").write_text(TEXT)
    storage = str(folder / "results")
    words = ["search", str(folder / "s.yaml"), "--method", "magnitude-l2", "--target", "3", "--local"]
    return [*words, "--storage", storage, "--dimensions", "width", "resolution"], storage


def test_a_search_runs_its_samples_and_its_winner_as_cells_and_does_them_once(searched, capsys) -> None:
    words, storage = searched
    assert main([*words, "--samples", "7", "--format", "json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["winner"]["speedup"], first["width_only"]["speedup"]) == pytest.approx((3, 3), rel=0.01)
    assert {one["image"] for one in first["cells"]} == {8, 6}
    assert len(first["cells"]) == 7
    assert first["residual"] >= 0
    assert main(["query", storage, "SELECT trial_id FROM trials", "--format", "json"]) == 0
    stored = {row["trial_id"] for row in json.loads(capsys.readouterr().out)}
    assert stored == {one["trial_id"] for one in [*first["cells"], first["winner"]]}
    assert main([*words, "--samples", "7"]) == 0
    printed = capsys.readouterr()
    assert "nothing" not in printed.out
    assert "polynomial of degree 2, 5 coefficients: off by" in printed.out
    assert "width only" in printed.out
    assert max(map(len, printed.out.splitlines()[:-1])) <= 100
    assert main(["query", storage, "SELECT trial_id FROM trials", "--format", "json"]) == 0
    assert {row["trial_id"] for row in json.loads(capsys.readouterr().out)} == stored


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--samples", "3"], "--samples: found 3, expected at least 6: so many coefficients"),
        (["--samples", "0"], "--samples: found 0, expected a number above 0"),
        (["--seed", "-1"], "--seed: found -1, expected 0 or more"),
        (["--method", "randm"], "--method: found 'randm', expected one of the sweep's methods. Did you mean 'random'"),
    ],
)
def test_mistakes_are_one_sentence(searched, capsys, more, why) -> None:
    assert main([*searched[0], *more]) == 2
    assert why in capsys.readouterr().err


def test_a_search_takes_one_method(searched, capsys) -> None:
    assert main(["search", searched[0][1], "--target", "2"]) == 2
    printed = capsys.readouterr().err
    assert "methods: found magnitude-l2, random; a search takes one (--method chooses one)" in printed


def test_optuna_is_an_extra(searched, capsys) -> None:
    if importlib.util.find_spec("optuna"):
        pytest.skip("Optuna is installed")
    assert main([*searched[0], "--sampler", "optuna"]) == 2
    assert "--sampler optuna needs Optuna: pip install 'raybench[optuna]'" in capsys.readouterr().err


def test_optuna_is_asked_and_told() -> None:
    pytest.importorskip("optuna", reason="the extra optuna is not installed")
    tried: list[tuple[int, int]] = []

    def measure(chosen):
        tried.append((chosen["depth"], chosen["size"]))
        return None if len(tried) == 1 else -abs(chosen["depth"] - 6) - abs(chosen["size"] - 3)

    optuna_search({"depth": 8, "size": 5}, 40, 0, measure)
    assert len(tried) == 40
    assert max(tried[20:], key=tried[20:].count) == (6, 3)
