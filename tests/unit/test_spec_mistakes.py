"""Bad sweep files: each gets a message that says where, what was found, what was expected, and the nearest name."""

import textwrap
from pathlib import Path

import pytest

from raybench.cli.main import main
from raybench.errors import SpecError
from raybench.sweep.reader import load_sweep

RECIPE = """\
base: {epochs: 2, lr: 0.1}
sparsify: {epochs: 1, lr: 1e-2}
finetune: {epochs: 1, lr: 0.01, milestones: [1]}
"""
GOOD = """\
name: good
datasets: digits
models: test-convnet
methods: [magnitude-l1, random]
speedups: [2, 4]
recipe: small
"""

# What is wrong -> (the file, what each message must say). In GOOD+X the lines of X start at line 7.
BAD = {
    "unknown key": (GOOD + "speedup: 2\n", ["bad.yaml:7: speedup: unknown key. Did you mean 'speedups'?"]),
    "unknown key without a near one": (GOOD + "qqqq: 2\n", ["bad.yaml:7: qqqq: unknown key. Known: base, base_seeds,"]),
    "key twice": (GOOD + "name: again\n", ["bad.yaml:7: name: found the key twice; it is on line 1 already"]),
    "key twice, deep": (
        GOOD + "resources:\n  cpus: 1\n  cpus: 2\n",
        ["bad.yaml:9: resources.cpus: found the key twice; it is on line 8 already"],
    ),
    "required key missing": ("name: x\n", ["bad.yaml:1: models: the key is missing", "bad.yaml:1: recipe: the key"]),
    "empty file": ("# nothing\n", ["bad.yaml:1: found an empty file; expected a mapping of keys"]),
    "a file of another tool": (
        "name: CI\non: [push]\njobs: {}\n",
        [
            "bad.yaml: this is no sweep file: found name, on, jobs, expected models, datasets, methods, speedups; "
            "it looks like a GitHub workflow"
        ],
    ),
    "a recipe": ("base: {lr: 1}\nfinetune: {lr: 1}\n", ["no sweep file", "which a sweep names: `recipe: bad.yaml`"]),
    "slips in most keys": (
        "nam: x\nmodel: test-convnet\ndataset: digits\n",
        [
            "bad.yaml:1: nam: unknown key. Did you mean 'name'? Known: base,",
            "bad.yaml:2: model: unknown key. Did you mean 'models'?\n",
        ],
    ),
    "a list": ("- name: x\n", ["bad.yaml:1: found a list; expected a mapping of keys"]),
    "not YAML": ("name: x\nmodels: [a, b\n", ["bad.yaml:3: not YAML:"]),
    "tab": ("name: x\nresources:\n\tcpus: 1\n", ["bad.yaml:3: not YAML:", "'\\t'"]),
    "alias": (GOOD + "seeds: &s [1]\nprune: *s\n", ["bad.yaml:8: not YAML: found the alias *s; expected values"]),
    "unknown model": (
        GOOD.replace("test-convnet", "test-convnett"),
        ["bad.yaml:3: models: unknown model 'test-convnett'. Did you mean 'test-convnet'?"],
    ),
    "unknown model in a mapping": (
        GOOD.replace("models: test-convnet", "models:\n  - test-vit\n  - name: cifar-resnet-20"),
        ["bad.yaml:5: models[1].name: unknown model 'cifar-resnet-20'. Did you mean 'cifar-resnet20'?"],
    ),
    "unknown dataset": (
        GOOD.replace("digits", "digit"),
        ["bad.yaml:2: datasets: unknown dataset 'digit'. Did you mean 'digits'?"],
    ),
    "unknown criterion": (
        GOOD.replace("magnitude-l1", "magnitud-l1"),
        ["bad.yaml:4: methods[0]: unknown method 'magnitud-l1'. Did you mean 'magnitude-l1'?"],
    ),
    "unknown regularizer": (
        GOOD.replace("random", "taylor+group-nrm"),
        ["bad.yaml:4: methods[1]: unknown regularizer 'group-nrm'. Did you mean 'group-norm'?"],
    ),
    "plus without a regularizer": (GOOD.replace("random", "taylor+"), ["methods[1]: unknown regularizer ''"]),
    "unknown parameter of a method": (
        GOOD.replace("random]", "{name: random+group-norm, regularizer_params: {strengt: 1e-4}}]"),
        ["bad.yaml:4: methods[1].regularizer_params.strengt: unknown parameter of regularizer 'group-norm'. Did you"],
    ),
    "parameter of the wrong type": (
        GOOD.replace("random]", "{name: random+group-norm, regularizer_params: {strength: much}}]"),
        ["methods[1].regularizer_params.strength: found 'much', expected a number"],
    ),
    "parameters of no regularizer": (
        GOOD.replace("random]", "{name: random, regularizer_params: {strength: 1}}]"),
        ["methods[1].regularizer_params: found parameters of a regularizer, but 'random' has none"],
    ),
    "unknown parameter of a token reducer": (
        GOOD.replace("random]", "{name: tome, params: {rate: 1}}]"),
        ["bad.yaml:4: methods[1].params.rate: unknown parameter of token reducer 'tome'. Known: train"],
    ),
    "unknown parameter of a trained selection": (
        GOOD.replace("random]", "{name: resrep, params: {strengt: 1}}]"),
        ["methods[1].params.strengt: unknown parameter of trained selection 'resrep'. Did you mean 'strength'?"],
    ),
    "key of the sweep in an exclusion": (
        GOOD + "exclude: [{schedules: progressive}]\n",
        ["bad.yaml:7: exclude[0].schedules: unknown key. 'schedule' is a key of the sweep itself; exclude can't have"],
    ),
    "key of the sweep in an inclusion": (
        GOOD + "include: {round_to: 8, methods: lamp}\n",
        ["bad.yaml:7: include.round_to: unknown key. 'round_to' is a key of the sweep itself; include can't have it."],
    ),
    "misspelt axes of an inclusion": (
        GOOD + "include:\n  - sizes: 8\n  - method: lamp\n",
        [
            "bad.yaml:8: include[0].sizes: unknown key. Did you mean 'image_sizes'?",
            "bad.yaml:9: include[1].method: unknown key. Did you mean 'methods'?",
        ],
    ),
    "unknown strategy": (
        GOOD + "strategies: protected\n",
        [
            "bad.yaml:7: strategies: found 'protected', expected 'local', 'global', 'protected-global', 'isomorphic', "
            "'optimal' or 'optimal-blocks'."
        ],
    ),
    "unknown strategy's neighbour": (GOOD + "strategies: [globl]\n", ["strategies[0]", "Did you mean 'global'?"]),
    "speed-up of one": (
        GOOD.replace("[2, 4]", "[2, 1]"),
        ["bad.yaml:5: speedups[1]: found 1, expected a number above 1"],
    ),
    "speed-up as text": (GOOD.replace("[2, 4]", "[fast]"), ["speedups[0]: found 'fast', expected a number"]),
    "speed-up without end": (GOOD.replace("[2, 4]", ".inf"), ["speedups: found inf, expected a finite number"]),
    "no speed-up": (GOOD.replace("[2, 4]", "[]"), ["bad.yaml:5: speedups: found an empty list, expected at least one"]),
    "nothing given": (GOOD.replace("[2, 4]", ""), ["bad.yaml:5: speedups: found nothing, expected a number"]),
    "speed-up twice": (
        GOOD.replace("[2, 4]", "[2, 4, 2.0]"),
        ["bad.yaml:5: speedups[2]: found 2.0 twice, expected each value once"],
    ),
    "method twice": (GOOD.replace("random", "magnitude-l1"), ["methods[1]: found 'magnitude-l1' twice"]),
    "negative seed": (GOOD + "seeds: [0, -1]\n", ["bad.yaml:7: seeds[1]: found -1, expected a number of at least 0"]),
    "seed that is no whole number": (GOOD + "seeds: 1.5\n", ["bad.yaml:7: seeds: found 1.5, expected a whole number"]),
    "true as a seed": (GOOD + "seeds: [true]\n", ["seeds[0]: found true, expected a whole number"]),
    "base_seeds": (
        GOOD + "base_seeds: perseed\n",
        ["base_seeds: found 'perseed', expected 'shared' or 'per-seed'. Did you mean 'per-seed'?"],
    ),
    "protocol": (GOOD + "protocol: pruning-bench\n", ["protocol: found 'pruning-bench'", "mean 'pruningbench'?"]),
    "schedule": (GOOD + "schedule: oneshot\n", ["schedule: found 'oneshot'", "Did you mean 'one-shot'?"]),
    "schedule of a protocol that has its own": (
        GOOD.replace("random", "{name: random, schedule: one-shot}") + "protocol: pruningbench\n",
        ["bad.yaml:4: methods[1].schedule: found 'one-shot', expected none: protocol pruningbench has its own"],
    ),
    "prune": (GOOD + "prune: [embed, mpl]\n", ["bad.yaml:7: prune[1]: found 'mpl'", "Did you mean 'mlp'?"]),
    "round_to": (GOOD + "round_to: 0\n", ["round_to: found 0, expected a number of at least 1"]),
    "two and a half devices a cell": (
        GOOD + "resources: {gpus: 2.5}\n",
        ["bad.yaml:7: resources.gpus: found 2.5, expected"],
    ),
    "negative gpus": (
        GOOD + "resources: {gpus: -0.5}\n",
        ["resources.gpus: found -0.5, expected a number of at least"],
    ),
    "unknown resource": (GOOD + "resources: {gpu: 1}\n", ["resources.gpu: unknown key. Did you mean 'gpus'?"]),
    "memory": (
        GOOD + "resources: {memory: 2 gigs}\n",
        ["resources.memory: found '2 gigs', expected bytes or a size such as 512MiB or 2GiB"],
    ),
    "resources no mapping": (GOOD + "resources: 4\n", ["bad.yaml:7: resources: found 4, expected a mapping"]),
    "nothing for a model": (
        GOOD.replace("test-convnet", ""),
        ["bad.yaml:3: models: found nothing, expected a name or a mapping with a name"],
    ),
    "number for a dataset": (GOOD.replace("digits", "7"), ["bad.yaml:2: datasets: found 7, expected a name or a mapp"]),
    "no recipe": (GOOD.replace("small", ""), ["bad.yaml:6: recipe: found nothing, expected the name or file"]),
    "recipes in a circle": (
        GOOD.replace("small", "snake"),
        ["recipes/snake.yaml:1: recipe: found a cycle"],
    ),
    "number that is none": (GOOD + "seeds: !!int one\n", ["bad.yaml:7: seeds: found 'one', expected a whole number"]),
    "number without end": (GOOD + "seeds: " + "9" * 5000 + "\n", ["bad.yaml:7: seeds: found '999"]),
    "data of nobody": (
        GOOD + "data_roots: {digit: here}\n",
        ["bad.yaml:7: data_roots.digit: unknown dataset 'digit'. Did you mean 'digits'?"],
    ),
    "weights that nobody published": (
        GOOD.replace("models: test-convnet", "models: {name: test-convnet, weights: pretrained}"),
        ["models.weights: found 'pretrained', expected 'trained' or a file: no published weights are known for"],
    ),
    "unknown recipe": (
        GOOD.replace("small", "smal"),
        ["bad.yaml:6: recipe: unknown recipe 'smal'. Did you mean 'small'? Known: "],
    ),
    "unknown key in a changed recipe": (
        GOOD.replace("recipe: small", "recipe:\n  extends: small\n  finetune:\n    epoch: 3"),
        ["bad.yaml:9: recipe.finetune.epoch: unknown key. Did you mean 'epochs'?"],
    ),
    "mistake in the recipe's own file": (
        GOOD.replace("small", "broken"),
        ["recipes/broken.yaml:3: recipe.finetune.lr: found 0, expected a number above 0"],
    ),
    "recipe with half of it": (
        GOOD.replace("small", "{base: {epochs: 1, lr: 0.1}}"),
        ["bad.yaml:6: recipe.finetune: the key is missing; it is required"],
    ),
    "recipe optimizer": (
        GOOD.replace("small", "{extends: small, base: {optimizer: adam}}"),
        ["recipe.base.optimizer: found 'adam', expected 'sgd' or 'adamw'. Did you mean 'adamw'?"],
    ),
    "weights of nowhere": (
        GOOD.replace("models: test-convnet", "models: {name: test-convnet, weights: pretraned}"),
        ["bad.yaml:3: models.weights: found", "expected 'trained', 'pretrained' or a file", "mean 'pretrained'?"],
    ),
    "exclude names a stranger": (
        GOOD + "exclude:\n  - {methods: randm}\n",
        ["bad.yaml:8: exclude[0].methods: found 'randm', expected one of this sweep's methods:", "mean 'random'?"],
    ),
    "exclude everything": (GOOD + "exclude: {}\n", ["bad.yaml:7: exclude: found no axis, expected at least one"]),
    "include an unknown axis": (
        GOOD + "include: {model: test-vit}\n",
        ["include.model: unknown key. Did you mean 'mod"],
    ),
    "include an unknown method": (GOOD + "include: [{methods: tailor}]\n", ["include[0].methods: unknown method"]),
    "extends nothing": (
        GOOD + "extends: goood.yaml\n",
        ["bad.yaml:7: extends: found 'goood.yaml'", "mean 'good.yaml'?"],
    ),
    "extends itself": (GOOD + "extends: bad.yaml\n", ["bad.yaml:7: extends: found a cycle: bad.yaml -> bad.yaml"]),
    "extends a list": (GOOD + "extends: [good.yaml]\n", ["bad.yaml:7: extends: expected the name of one YAML file"]),
    "name with a space": (GOOD.replace("name: good", "name: my sweep"), ["bad.yaml:1: name: found 'my sweep'"]),
    "module without function": (
        GOOD.replace("test-convnet", "my-module:net"),
        ["bad.yaml:3: models: found 'my-module:net', expected a registered name, timm:NAME or module:function"],
    ),
    "several at once": (
        GOOD.replace("random", "randm").replace("[2, 4]", "[0.5]") + "seed: 1\n",
        [
            "3 mistakes\n",
            "bad.yaml:4: methods[1]: unknown method 'randm'",
            "bad.yaml:5: speedups[0]: found 0.5",
            "bad.yaml:7: seed: unknown key. Did you mean 'seeds'?",
        ],
    ),
}
ALL_AT_ONCE = {  # (the file, what each of its mistakes says)
    "parameters of one entry": (
        GOOD.replace("random", "{name: cp, params: {point: 3, reconstruct: 1}}"),
        ["methods[1].params.point: unknown parameter", "params.reconstruct: found 1, expected true or false"],
    ),
    "both parts of a method": (
        GOOD.replace("random", "randm+group-nrm"),
        ["methods[1]: unknown method 'randm'", "methods[1]: unknown regularizer 'group-nrm'"],
    ),
    "several doubles": (
        GOOD.replace("[2, 4]", "[2, 2, 4, 4]"),
        ["speedups[1]: found 2.0 twice", "speedups[3]: found 4.0 twice"],
    ),
    "data roots of no dataset": (
        GOOD + "data_roots: {digit: a, cifar: b}\n",
        ["data_roots.digit: unknown dataset", "data_roots.cifar: unknown dataset"],
    ),
    "what contradicts what": (
        GOOD.replace("small", "{extends: small, base: {warmup_epochs: 9}, finetune: {warmup_epochs: 8}}")
        + "protocol: pruningbench\nschedule: iterative\nexclude: [{seeds: [4, 5]}, {methods: randm}]\n",
        [
            "recipe.base.warmup_epochs: found 9", "recipe.finetune.warmup_epochs: found 8",
            "schedule: found 'iterative', expected none", "exclude[0].seeds: found 4, expected one of this sweep's",
            "exclude[0].seeds: found 5", "exclude[1].methods: found 'randm'",
        ],
    ),
    "a wrong name and an impossible recipe": (
        GOOD.replace("small", "{extends: small, base: {warmup_epochs: 9}}").replace("random", "randm"),
        ["methods[1]: unknown method", "recipe.base.warmup_epochs: found 9"],
    ),
    "a ratio beside much": (
        GOOD + "ratio: 0.5\nprotocol: pruningbench\n",
        ["ratio: found speedups beside it", "ratio: found a ratio, expected speedups"],
    ),
    "variables": (
        GOOD.replace("test-convnet", "{name: test-convnet, weights: $NOT_SET_A/$NOT_SET_B}")
        + "storage: $NOT_SET_C\n",
        ["found $NOT_SET_A", "found $NOT_SET_B", "found $NOT_SET_C"],
    ),
    "two plurals": (
        GOOD + "recipes: [small]\nprotocol: raybench\nprotocols: [raybench]\n",
        ["recipe: found recipes beside it", "protocol: found protocols beside it"],
    ),
}  # fmt: skip
BAD |= ALL_AT_ONCE
COUNTS = {
    "required key missing": 5,
    "slips in most keys": 9,
    "several at once": 3,
    "misspelt axes of an inclusion": 2,
}  # of mistakes; one elsewhere
COUNTS |= {what: len(expected) for what, (_, expected) in ALL_AT_ONCE.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a good sweep, and recipes of which one is broken."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/small.yaml").write_text(RECIPE)
    (tmp_path / "recipes/broken.yaml").write_text(RECIPE.replace("0.01", "0"))
    (tmp_path / "recipes/snake.yaml").write_text("extends: snake\n")
    (tmp_path / "good.yaml").write_text(GOOD)
    return tmp_path


def test_the_good_file_is_good(folder):
    assert load_sweep(folder / "good.yaml").name == "good"


@pytest.mark.parametrize("what", BAD)
def test_every_mistake_is_told_where_it_is(what, folder):
    text, expected = BAD[what]
    (folder / "bad.yaml").write_text(text)
    with pytest.raises(SpecError) as caught:
        load_sweep(folder / "bad.yaml")
    message = str(caught.value)
    for words in expected:
        assert words in message
    count = int(message.split()[0]) if " mistakes\n" in message else 1
    assert count == COUNTS.get(what, 1), message


def test_what_only_resolving_finds_is_told_all_at_once(folder, capsys):
    each = ["{name: random, recipe: {extends: small, finetune: {augment: [mosaic]}}}"]
    each += ["{name: lamp, recipe: {extends: small, base: {augment: [hsv]}}}"]
    (folder / "s.yaml").write_text(GOOD.replace("[magnitude-l1, random]", f"[magnitude-l1, {', '.join(each)}]"))
    assert main(["validate", str(folder / "s.yaml")]) == 2
    printed = capsys.readouterr().err
    assert all(words in printed for words in ("2 mistakes", "found 'mosaic'", "found 'hsv'"))


def test_mistakes_are_told_in_the_order_of_the_file(folder):
    (folder / "bad.yaml").write_text(BAD["several at once"][0])
    with pytest.raises(SpecError) as caught:
        load_sweep(folder / "bad.yaml")
    lines = [mistake.line for mistake in caught.value.mistakes]
    assert lines == sorted(lines)


def test_a_mistake_in_an_extended_file_names_that_file(folder):
    (folder / "parent.yaml").write_text(GOOD.replace("[2, 4]", "[2, 0]"))
    (folder / "bad.yaml").write_text("extends: parent.yaml\nname: child\n")
    with pytest.raises(SpecError, match=r"parent\.yaml:5: speedups\[1\]: found 0"):
        load_sweep(folder / "bad.yaml")


def test_a_file_that_is_not_there(folder):
    with pytest.raises(SpecError, match=r"nowhere\.yaml: found no such file$"):
        load_sweep(folder / "nowhere.yaml")


def test_a_file_that_is_not_text(folder):
    (folder / "bad.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(SpecError, match=r"bad\.yaml: is not UTF-8 text"):
        load_sweep(folder / "bad.yaml")


def test_a_file_nested_without_end(folder):
    (folder / "bad.yaml").write_text("[" * 1000)
    with pytest.raises(SpecError, match="nested too deeply"):
        load_sweep(folder / "bad.yaml")


def test_validate_exits_2_and_says_all_of_it_on_stderr(folder, capsys):
    (folder / "bad.yaml").write_text(textwrap.dedent(BAD["several at once"][0]))
    assert main(["validate", str(folder / "bad.yaml")]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("bad.yaml:") == 3
    assert "Traceback" not in printed.err
    assert main(["validate", str(folder / "good.yaml")]) == 0
    assert "valid, 4 cells" in capsys.readouterr().out
