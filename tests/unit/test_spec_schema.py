"""The JSON Schema agrees with the reader: what it completes in an editor is what a run accepts."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from raybench.cli.main import main
from raybench.sweep.schema import json_schema
from tests.unit.test_spec_mistakes import BAD, GOOD

ROOT = Path(__file__).parents[2]
SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))
SHORTHANDS = """\
name: everything
extends: other.yaml
models: [test-vit, {name: test-convnet, params: {width: 8}, weights: pretrained, speedups: 3, prune: mlp}]
datasets: {name: digits, params: {split_seed: 1}}
methods: [magnitude-l1, {name: magnitude-l2+group-norm, regularizer_params: {strength: 0.1}, seeds: [1, 2]}]
strategies: local
speedups: 2
seeds: 0
recipe: {extends: quick, finetune: {epochs: 3}}
resources: {cpus: 2, gpus: 0.5, memory: 2GiB}
prune: [embed, mlp]
data_roots: {digits: here}
include: {models: test-vit, methods: taylor}
exclude: [{models: test-vit, seeds: 1}]
"""


@pytest.fixture(scope="module")
def validator():
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("text", [GOOD, SHORTHANDS, *(file.read_text() for file in SWEEPS)])
def test_what_the_reader_takes_the_schema_takes(validator, text):
    assert [error.message for error in validator.iter_errors(yaml.safe_load(text))] == []


@pytest.mark.parametrize(
    "what",
    [
        "unknown key", "unknown strategy", "speed-up of one", "speed-up as text", "no speed-up", "negative seed",
        "seed that is no whole number", "base_seeds", "protocol", "schedule", "prune", "round_to", "unknown resource",
        "negative gpus", "resources no mapping", "recipe optimizer", "unknown key in a changed recipe",
        "include an unknown axis", "name with a space",
    ],
)  # fmt: skip
def test_what_can_be_seen_without_names_the_schema_refuses(validator, what):
    assert list(validator.iter_errors(yaml.safe_load(BAD[what][0])))


def test_names_are_offered_to_the_editor(capsys):
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert "quick" in json.dumps(schema["properties"]["recipe"])
    assert "magnitude-l2+group-norm" in json.dumps(schema["properties"]["methods"])
    assert "cifar-resnet20" in json.dumps(schema["properties"]["models"])
