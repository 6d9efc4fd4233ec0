"""`prune --target-latency`: the curve, the choice of a cut, and what is said where none can meet the target."""

from __future__ import annotations

import argparse

import pytest

from raybench.cli.main import main
from raybench.cli.prune_latency import TargetLatency, speedups_for
from raybench.errors import UserError
from raybench.reports.latency_curve import PROBES, Curve, curve_line, curves_of


def row(method: str, speedup: float, ms: float | None, base: float | None = 10.0, **more: object) -> dict:
    known = {"status": "ok", "timing_reason": None, "reason": None, "error_message": None}
    return {**known, "label": method, "speedup_target": speedup, "latency_ms": ms, "latency_base_ms": base, **more}


def options(target: float, relative: bool = False) -> argparse.Namespace:
    known = {"epochs": 3, "lr": 0.1, "no_finetune": False, "speedup": None, "ratio": None}
    return argparse.Namespace(target_latency=TargetLatency(target, relative), **known)


def measured(slope: dict[str, float], asked: list[list[float]]):
    """A machine where a method's latency at speed-up s is 10 / s + its slope."""

    def measure(probe: argparse.Namespace) -> list[dict]:
        assert (probe.no_finetune, probe.epochs, probe.lr) == (True, None, None)
        asked.append(list(probe.speedup))
        return [row(method, s, 10 / s + more) for method, more in slope.items() for s in probe.speedup]

    return measure


def test_the_smallest_cut_that_meets_the_target_is_bracketed(capsys) -> None:
    asked: list[list[float]] = []
    args = options(4.0)
    chosen = speedups_for(args, measured({"random": 0.0, "lamp": 1.0}, asked))
    assert chosen == {"random": pytest.approx(2.5, rel=0.1), "lamp": pytest.approx(10 / 3, rel=0.1)}
    assert all(10 / s + more <= 4 for s, more in zip(chosen.values(), (0, 1), strict=True))
    assert asked[0] == list(PROBES)
    assert len(asked) <= 4
    assert (args.epochs, args.no_finetune) == (3, False), "the options themselves stay as they were typed"
    assert "latency, random: 1x 10 ms, " in capsys.readouterr().err


def test_a_method_that_cant_is_left_out_by_name(capsys) -> None:
    chosen = speedups_for(options(2.0), measured({"random": 0.0, "lamp": 1.5}, []))
    assert list(chosen) == ["random"]
    assert "left out: lamp reaches 2.12 ms (at 16x; uncut 10 ms), expected at most 2 ms" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (0.5, r"found 0.5 ms; random reaches 0.625 ms \(at 16x; uncut 10 ms\)"),
        (10.0, "found 10 ms, but the uncut network takes 10 ms already"),
        (500.0, "found 500 ms, but the uncut network takes 10 ms already"),
    ],
)
def test_what_is_reachable_is_told(target, message) -> None:
    with pytest.raises(UserError, match=f"--target-latency: {message}"):
        speedups_for(options(target), measured({"random": 0.0}, []))


def test_without_timings_the_reason_is_told_and_ctrl_c_is_passed_on() -> None:
    untimed = [row("random", 2.0, None, timing_reason="the machine was not free")]
    with pytest.raises(UserError, match="no cut could be timed: the machine was not free"):
        speedups_for(options(5.0), lambda probe: untimed)
    assert speedups_for(options(5.0), lambda probe: None) is None


def test_curves_leave_out_what_failed_and_take_the_median_base() -> None:
    rows = [row("a", 4.0, 3.0, 9.0), row("a", 2.0, 6.0, 30.0), row("a", 8.0, 2.0, 10.0), row("b", 2.0, None)]
    rows.append(row("c", 2.0, 1.0, status="failed"))
    assert curves_of(rows) == [Curve("a", 10.0, ((2.0, 6.0), (4.0, 3.0), (8.0, 2.0)))]
    assert curve_line(curves_of(rows)[0]) == "a: 1x 10 ms, 2x 6 ms, 4x 3 ms, 8x 2 ms"


def test_a_share_of_the_uncut_networks_time(capsys) -> None:
    slow = {"random": 0.0, "lamp": 5.0}
    assert list(speedups_for(options(2.5, relative=True), measured(slow, []))) == ["random"]
    assert "left out: lamp reaches 5.62 ms (at 16x; uncut 10 ms), expected 2.5x faster" in capsys.readouterr().err
    with pytest.raises(
        UserError, match=r"--target-latency: found 20x; random reaches 0.625 ms \(at 16x; uncut 10 ms\)"
    ):
        speedups_for(options(20.0, relative=True), measured({"random": 0.0}, []))


@pytest.mark.parametrize("typed", ["1x", "0.7x", "-2x", "x", "0", "-3", "fast", "nan", "inf"])
def test_a_target_that_is_no_time_is_refused(typed, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        main(["prune", "--model", "test-convnet", f"--target-latency={typed}"])
    assert end.value.code == 2
    assert "--target-latency: found" in capsys.readouterr().err


def test_it_stands_in_place_of_a_speedup(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["prune", "--model", "test-convnet", "--target-latency", "5ms", "--speedup", "2"])
    assert "not allowed with argument --target-latency" in capsys.readouterr().err
