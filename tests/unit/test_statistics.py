"""Statistics of results against scipy, scikit-posthocs, brute force and known answers."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from raybench.reports.statistics.agreement import agreement
from raybench.reports.statistics.critical_difference import critical_difference, nemenyi
from raybench.reports.statistics.intervals import half_width, paired
from raybench.reports.statistics.rank_intervals import _inflation, rank_intervals
from raybench.reports.statistics.resolution import pooled_spread, seeds_needed
from raybench.reports.statistics.samples import Block, Samples, samples
from raybench.reports.statistics.signed_ranks import holm, pairs_needed, signed_rank_p, smallest_p
from raybench.reports.statistics.win_matrix import refusal, win_matrix

NAMES = tuple("abcdefghijkl")


def one_block(values, *, model="net"):
    values = np.asarray(values, dtype=float)
    return Block("digits", model, tuple((seed, 0) for seed in range(values.shape[1])), values)


def of(*blocks):
    arrays = [one_block(values, model=f"net{place}") for place, values in enumerate(blocks)]
    return Samples(NAMES[: arrays[0].values.shape[0]], tuple(arrays))


def drawn(*shape, seed=0, step=0.28):
    """Normal values on the grid of a test split, so that there are ties and zeros."""
    return np.round(np.random.default_rng(seed).normal(90, 1, shape) / step) * step


@pytest.mark.parametrize("n", [3, 4, 5, 8, 20])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_interval_is_that_of_scipys_paired_t_test(n, confidence):
    a, b = np.random.default_rng(n).normal(90, 1, (2, n))
    theirs = stats.ttest_rel(a, b).confidence_interval(confidence)
    ours = paired(list(a), list(b), confidence=confidence)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
    assert ours.mean == pytest.approx((a - b).mean())


@pytest.mark.parametrize(("n", "words"), [(1, "one seed"), (2, "two seeds")])
def test_below_three_seeds_there_are_points_and_no_interval(n, words):
    found = paired([91.0, 92.0][:n], [90.5, 90.0][:n])
    assert found.points == pytest.approx((0.5, 2.0)[:n])
    assert (found.low, found.high, found.verdict) == (None, None, None)
    assert words in found.reason


def test_no_seed_is_no_comparison():
    with pytest.raises(ValueError, match="no seed"):
        paired([], [])


@pytest.mark.parametrize(
    ("differences", "equivalent", "verdict"),
    [
        ([1.0, 1.1, 0.9], 0.3, "better"),
        ([-1.0, -1.1, -0.9], 0.3, "worse"),
        ([0.1, 0.0, -0.1], 0.3, "equivalent"),
        ([0.0, 0.0, 0.0], 0.3, "equivalent"),
        ([0.3, 0.35, 0.4], 0.3, "undecided"),  # more than zero, and perhaps less than matters
        ([0.3, 0.35, 0.4], 0.0, "better"),
        ([2.0, -1.0, 0.5], 0.3, "undecided"),
    ],
)
def test_the_verdict_follows_the_whole_interval(differences, equivalent, verdict):
    assert paired(differences, [0.0] * 3, equivalent=equivalent).verdict == verdict


def test_the_half_width_in_standard_deviations():
    assert [round(half_width(1, n), 2) for n in (2, 3, 5, 10)] == [8.98, 2.48, 1.24, 0.72]


@pytest.mark.parametrize("n", [3, 6, 9, 15, 40])
def test_the_signed_rank_test_is_scipys_exact_one_without_ties(n):
    d = np.random.default_rng(n).normal(0.3, 1, n)
    assert signed_rank_p(d) == pytest.approx(stats.wilcoxon(d, method="exact").pvalue)


@pytest.mark.parametrize("n", [3, 5, 8, 11])
def test_the_signed_rank_test_with_ties_and_zeros_is_that_of_all_signs(n):
    d = np.round(np.random.default_rng(n).normal(0.2, 1, n) * 2) / 2
    ranks = stats.rankdata(np.abs(d))[d != 0]
    signs = np.sign(d[d != 0])
    sums = np.array([np.dot(ranks, s) for s in product([-1, 1], repeat=len(ranks))])
    brute = (np.abs(sums) >= abs(np.dot(ranks, signs)) - 1e-9).mean()
    assert signed_rank_p(d) == pytest.approx(brute)


def test_a_tied_test_never_falls_below_what_its_pairs_can_reach():
    equal = [0.5] * 5
    assert stats.wilcoxon(equal, method="approx").pvalue < smallest_p(5)  # why we don't use it
    assert signed_rank_p(equal) == smallest_p(5) == 0.0625
    assert signed_rank_p([0.0] * 5) == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_holm_is_step_down(seed):
    ps = np.random.default_rng(seed).uniform(0, 0.1, 6)
    order = np.argsort(ps)
    plain = np.minimum(1, np.maximum.accumulate(ps[order] * np.arange(6, 0, -1)))
    assert np.array(holm(ps))[order] == pytest.approx(plain)


def test_holm_and_nemenyi_are_those_of_scikit_posthocs():
    posthocs = pytest.importorskip("scikit_posthocs")
    values = np.random.default_rng(0).normal(0, 1, (20, 4)) + np.array([0, 0.3, 0.6, 1.2])
    theirs = posthocs.posthoc_wilcoxon(values.T, p_adjust="holm")
    matrix = win_matrix(of(*(row[:, None] for row in values)))
    for pair in matrix.pairs:
        i, j = NAMES.index(pair.first) + 1, NAMES.index(pair.second) + 1
        assert pair.adjusted == pytest.approx(theirs.loc[i, j])
    found = critical_difference(of(*(row[:, None] for row in values)))
    table = posthocs.posthoc_nemenyi_friedman(values)
    ranks = dict(zip(found.methods, found.ranks, strict=True))
    for i, a in enumerate(NAMES[:4]):
        for j, b in enumerate(NAMES[:4]):
            if i != j:
                assert (abs(ranks[a] - ranks[b]) > found.critical) == (table.iloc[i, j] < 0.05)


AUTORANK = {  # autorank 1.3.0 of the values below, by seed: p of Friedman's test, mean ranks; its critical difference
    0: (0.0034188425, {"c": 2.45, "d": 2.55, "e": 2.6, "b": 3.3, "a": 4.1}),
    1: (2.77856088e-05, {"e": 1.7, "d": 2.4, "b": 3.5, "a": 3.65, "c": 3.75}),
    2: (0.0256794855, {"d": 2.45, "e": 2.5, "a": 3.0, "c": 3.15, "b": 3.9}),
}
AUTORANK_DIFFERENCE = 1.36387544


@pytest.mark.parametrize("seed", AUTORANK)
def test_mean_ranks_and_the_critical_difference_are_those_of_autorank(seed):
    """Figures, and not the package, which installs a second package called `tests`."""
    values = np.random.default_rng(seed).normal(0, 1, (20, 5)) + np.array([0, 0.3, 0.6, 1.2, 1.2])
    found = critical_difference(of(*(row[:, None] for row in values)))
    p, ranks = AUTORANK[seed]
    assert found.p == pytest.approx(p, rel=1e-6)
    assert dict(zip(found.methods, found.ranks, strict=True)) == pytest.approx(ranks)
    assert found.critical == pytest.approx(AUTORANK_DIFFERENCE, rel=1e-4)


def test_nemenyi_of_twelve_methods():
    assert round(nemenyi(12, 9), 2) == 5.55
    assert round(nemenyi(12, 21), 2) == 3.64
    assert round(nemenyi(5, 30), 3) == 1.114  # Demsar 2006: q = 2.728


def test_the_p_value_of_the_ranks_is_friedmans():
    units = np.random.default_rng(3).normal(0, 1, (4, 12)) + np.array([[0], [0.5], [1], [2]])
    found = critical_difference(of(*(column[:, None] for column in units.T)))
    assert found.p == pytest.approx(stats.friedmanchisquare(*units).pvalue)
    assert found.ranks == pytest.approx(sorted(stats.rankdata(-units, axis=0).mean(axis=1)))


def test_the_bars_of_the_picture_join_what_lies_within_the_critical_difference():
    values = np.array([[5, 5, 5, 5, 4.9, 5, 5, 5], [4, 4, 4, 4, 5, 4, 4, 4], [1, 1, 2, 1, 1, 1, 1, 1.0]])
    found = critical_difference(of(*(column[:, None] for column in values.T)))
    assert found.groups == (("a", "b"), ("b", "c")) or found.groups == (("a", "b"),)
    for group in found.groups:
        ranks = [dict(zip(found.methods, found.ranks, strict=True))[name] for name in group]
        assert max(ranks) - min(ranks) <= found.critical


@pytest.mark.parametrize(("blocks", "methods", "words"), [(2, 4, "3 are needed"), (9, 2, "from three on")])
def test_a_critical_difference_is_refused(blocks, methods, words):
    found = critical_difference(of(*(drawn(methods, 1, seed=b) for b in range(blocks))))
    assert found.critical is None
    assert words in found.reason


@pytest.mark.parametrize(("seeds", "methods"), [(1, 2), (3, 2), (5, 2), (5, 12), (11, 12)])
def test_unreachable_p_values_are_refused(seeds, methods):
    found = win_matrix(of(drawn(methods, seeds)))
    assert all(pair.p is None and pair.adjusted is None for pair in found.pairs)
    assert "needed" in found.reason
    assert pairs_needed(len(found.pairs)) > seeds


@pytest.mark.parametrize(("seeds", "methods"), [(6, 2), (8, 3), (12, 12)])
def test_reachable_p_values_are_given(seeds, methods):
    values = drawn(methods, seeds) + 10 * np.arange(methods)[:, None]
    found = win_matrix(of(values))
    assert found.reason is None
    assert max(pair.adjusted for pair in found.pairs) < 0.05
    assert found.methods == tuple(reversed(NAMES[:methods]))


def test_the_number_of_pairs_needed_is_the_smallest():
    for comparisons in (1, 3, 10, 66, 120):
        needed = pairs_needed(comparisons)
        assert refusal(needed, comparisons) is None
        assert refusal(needed - 1, comparisons) is not None


def test_several_models_are_the_units_and_not_their_seeds():
    found = win_matrix(of(*(drawn(2, 5, seed=s) for s in range(4))))
    assert (found.units, found.unit) == (4, "pairs of dataset and model")
    assert found.reason is not None


def test_wins_count_from_the_region_of_equivalence_on():
    found = win_matrix(of([[91.0, 90.2, 89.0], [90.0, 90.0, 90.0]]))
    pair = found.between("a", "b")
    assert (pair.wins, pair.losses, pair.equal) == (1, 1, 1)
    turned = found.between("b", "a")
    assert (turned.wins, turned.mean) == (pair.losses, -pair.mean)


def test_rank_intervals_hold_the_ranks_and_the_best_is_tied_with_itself():
    for seed in range(10):
        found = rank_intervals(of(*(drawn(6, 3, seed=10 * seed + b) for b in range(4))), replicates=300)
        assert all(one.low <= one.rank <= one.high for one in found.methods)
        assert found.methods[0].method in found.tied


@pytest.mark.parametrize(("methods", "freedom"), [(2, 2), (6, 10), (12, 22)])
def test_the_widening_for_few_units_is_that_of_tukeys_range(methods, freedom):
    finite, infinite = stats.studentized_range.ppf(0.95, methods, [freedom, np.inf])
    assert _inflation(methods, freedom, 0.95) == pytest.approx(finite / infinite, rel=0.03)


def test_equal_methods_are_seldom_told_apart():
    """100 stores of 8 equal methods: in at least 95 of them no difference is found."""
    none = [len(rank_intervals(of(drawn(8, 4, seed=s, step=1e-6)), replicates=300).tied) == 8 for s in range(100)]
    assert sum(none) >= 95


def test_clear_differences_are_found():
    values = drawn(4, 5) + 20 * np.arange(4)[:, None]
    found = rank_intervals(of(values))
    assert [(one.low, one.high) for one in found.methods] == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert found.tied == ("d",)
    assert "say nothing about others" in found.reason


@pytest.mark.parametrize("blocks", [[drawn(4, 1)], [drawn(4, 2)], [drawn(4, 5), drawn(4, 5)]])
def test_ranks_from_fewer_than_three_units_have_no_interval(blocks):
    found = rank_intervals(of(*blocks))
    assert all(one.low is None and one.tied is None for one in found.methods)
    assert "3 are needed" in found.reason
    assert found.methods[0].rank == 1


def test_the_order_of_the_cells_changes_nothing():
    values = {f"m{i}": {(s, 0): float(v) for s, v in enumerate(row)} for i, row in enumerate(drawn(5, 4))}
    forward = samples({("digits", "net"): values})
    backward = samples({("digits", "net"): dict(reversed([(n, dict(reversed(v.items()))) for n, v in values.items()]))})
    assert rank_intervals(forward) == rank_intervals(backward)


def test_methods_without_a_common_seed_are_left_out_by_name():
    seeds = {(s, 0): 90.0 for s in range(3)}
    cells = {
        ("d", "x"): {"a": seeds, "b": seeds, "late": {(7, 0): 1.0}},
        ("d", "y"): {"a": seeds, "b": seeds, "late": seeds, "c": seeds},
    }
    found = samples(cells)
    assert found.methods == ("a", "b")
    assert found.left_out == ("c", "late")
    assert samples({}).methods == ()


@pytest.mark.parametrize("n", [4, 7, 12])
def test_the_agreement_is_scipys_kendall(n):
    a, b = drawn(n, seed=n, step=0.5), drawn(n, seed=n + 1, step=0.5)
    found = agreement(dict(zip(NAMES, a, strict=False)), dict(zip(NAMES, b, strict=False)))
    assert found.tau == pytest.approx(stats.kendalltau(a, b).statistic)
    assert -1 <= found.low <= found.tau + 1e-9
    assert found.tau - 1e-9 <= found.high <= 1


@pytest.mark.parametrize("second", [{}, {"a": 1.0}, dict.fromkeys("abcd", 1.0)])
def test_an_agreement_that_can_not_be_told_is_none(second):
    assert agreement(dict(zip("abcd", (1.0, 2.0, 3.0, 4.0), strict=True)), second).tau is None


@pytest.mark.parametrize("resolution", [0.1, 0.3, 1.0, 5.0])
def test_the_seeds_needed_are_the_fewest(resolution):
    n = seeds_needed(0.4, resolution)
    assert half_width(0.4, n) <= resolution
    assert n == 3 or half_width(0.4, n - 1) > resolution


def test_a_resolution_out_of_reach_has_no_number():
    assert seeds_needed(100.0, 0.01) is None
    assert seeds_needed(0.0, 0.1) == 3
    assert pooled_spread([[1.0], []]) is None
    groups = drawn(5, 4)
    assert pooled_spread(groups) == pytest.approx(groups.var(axis=1, ddof=1).mean() ** 0.5)
