"""Trials that are made from one another have the keys that they would have if built anew."""

import itertools

import pytest

from raybench.sweep.digests import Form, canonical, digest
from raybench.sweep.trial import MethodRef, Trial
from raybench.sweep.weights import Weights

from .result_rows import trial

KEYS = ("trial_id", "base_identity", "base_key", "sparsify_key", "pass_key", "select_key")
AXES = [("global", 2.0, 0, 0), ("global", 4.0, 0, 0), ("local", 2.0, 0, 0), ("global", 2.0, 1, 0), ("local", 3.0, 2, 2),
        ("global", 2.0, 0, 0, "params"), ("local", 2.0, 1, 1, "latency"), ("global", 4.0, 0, 0, "latency")]  # fmt: skip
FIRST = {
    "weights alone": trial(),
    "seeded": trial(importance="taylor").model_copy(update={"importance": MethodRef(name="taylor", seeded=True)}),
    "regularizer": trial(regularizer="group-norm"),
    "ratio": trial(ratio=0.5),
    "pruningbench": trial(protocol="pruningbench"),
    "trained": trial(importance="resrep").model_copy(update={"importance": MethodRef(name="resrep", trained=True)}),
    "layers": trial().model_copy(update={"keep": ("%s", '"%d%%"'), "only": ("é",)}),
    "depth, size, team": trial().model_copy(update={"depth": 0.5, "image_size": 16, "processes": 2}),
    "file": trial().model_copy(update={"weights": Weights(kind="file", identity='"%')}),
}


@pytest.mark.parametrize("first", FIRST.values(), ids=FIRST)
def test_a_sibling_has_the_keys_of_a_trial_built_anew(first):
    for before, after in itertools.permutations(AXES, 2):
        known = first.sibling(*before)
        assert all(getattr(known, key) is not None or key == "sparsify_key" for key in KEYS)  # computed, so inherited
        made = known.sibling(*after)
        anew = Trial(**{name: getattr(made, name) for name in Trial.model_fields})
        assert (made.strategy, made.speedup, made.seed, made.base_seed, made.target) == (*after, "macs")[:5]
        assert made == anew
        assert {key: getattr(made, key) for key in KEYS} == {key: getattr(anew, key) for key in KEYS}


@pytest.mark.parametrize("first", FIRST.values(), ids=FIRST)
def test_the_id_is_the_digest_of_the_whole_trial(first):
    left_out = {"recipe": {"name", "base"}, "weights": True, "base_seed": True}
    left_out |= {name: True for name in ("keep", "only") if not getattr(first, name)}
    own = first.model_dump(mode="json", exclude=left_out | ({"ratio": True} if first.ratio is None else {}))
    versions = [1, 1, 2] if first.protocol == "pruningbench" else [1, 2]
    assert first.trial_id == digest("cell", *versions, own, first.base_identity)


@pytest.mark.parametrize("value", [0, -3, True, 2.0, 0.1, 1e-7, "a", '"%s%%\\', "é\n"])
def test_a_form_with_a_value_in_its_gap_is_the_canonical_json(value):
    fields = {"b": {"z": "%s", "a": [1, None]}, "%d": "100 %", "z": ()}
    form = Form.of(fields, ["gap", "c"])
    assert form.filled({"c": 1, "gap": value}) == canonical(fields | {"gap": value, "c": 1})
    assert Form.of(fields, []).filled({}) == canonical(fields)
