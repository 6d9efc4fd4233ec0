"""Ctrl-C at random moments, start-up included: the command ends in time, with code 130 and one sentence."""

import random

import pytest

from tests.interrupts import interrupted


def ends(folder, count, seed, latest, *options):
    """Interrupt `count` runs, each at a random moment of its first `latest` seconds; four share a storage."""
    draw, done, turn = random.Random(seed), 0, 0
    while done < count:
        place = folder / str(turn // 4)
        place.mkdir(exist_ok=True)
        turn += 1
        end = interrupted(place, draw.uniform(0.15, latest), *options)
        if end is None:  # it had ended before
            continue
        done += 1
        assert not end.wrong, f"after {end.after_s:.2f} s: {end.wrong}\n{end.output}"


@pytest.mark.timeout(200)
def test_two_local_runs_are_interrupted(tmp_path):
    ends(tmp_path, 2, 7, 4.0, "--local")


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("options", [["--local"], []], ids=["local", "ray"])
def test_25_runs_are_interrupted(tmp_path, options):
    ends(tmp_path, 25, 11, 12.0, *options)
