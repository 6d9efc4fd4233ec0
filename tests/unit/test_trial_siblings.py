"""Trials that are made from one another have the keys that they would have if built anew."""

import itertools

import pytest

from raybench.sweep.digests import digest
from raybench.sweep.trial import MethodRef, Trial

from .result_rows import trial

KEYS = ("trial_id", "base_identity", "base_key", "sparsify_key", "pass_key", "select_key")
AXES = [("global", 2.0, 0, 0), ("global", 4.0, 0, 0), ("local", 2.0, 0, 0), ("global", 2.0, 1, 0), ("local", 3.0, 2, 2)]
FIRST = {
    "weights alone": trial(),
    "seeded": trial(importance="taylor").model_copy(update={"importance": MethodRef(name="taylor", seeded=True)}),
    "regularizer": trial(regularizer="group-norm"),
    "ratio": trial(ratio=0.5),
    "pruningbench": trial(protocol="pruningbench"),
}


@pytest.mark.parametrize("first", FIRST.values(), ids=FIRST)
def test_a_sibling_has_the_keys_of_a_trial_built_anew(first):
    for before, after in itertools.permutations(AXES, 2):
        known = first.sibling(*before)
        assert all(getattr(known, key) is not None or key == "sparsify_key" for key in KEYS)  # computed, so inherited
        made = known.sibling(*after)
        anew = Trial(**{name: getattr(made, name) for name in Trial.model_fields})
        assert (made.strategy, made.speedup, made.seed, made.base_seed) == after
        assert made == anew
        assert {key: getattr(made, key) for key in KEYS} == {key: getattr(anew, key) for key in KEYS}


@pytest.mark.parametrize("first", FIRST.values(), ids=FIRST)
def test_the_id_is_the_digest_of_the_whole_trial(first):
    left_out = {"recipe": {"name", "base"}, "weights": True, "base_seed": True, "keep": True, "only": True}
    own = first.model_dump(mode="json", exclude=left_out | ({"ratio": True} if first.ratio is None else {}))
    versions = [1, 1, 2] if first.protocol == "pruningbench" else [1, 2]
    assert first.trial_id == digest("cell", *versions, own, first.base_identity)
