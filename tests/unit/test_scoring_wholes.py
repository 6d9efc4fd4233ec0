"""What scoring passes on, as whole records: layers that criteria see, messages about their answers, times and seeds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from raybench.errors import StageError, UserError
from raybench.groups.records import Group, Groups
from raybench.methods.layers import Evidence, view
from raybench.methods.protocols import Calibration, ElementwiseImportance, Importance, Layer
from raybench.scoring import contract
from raybench.scoring import gather as gathering
from raybench.scoring import scorer as scoring
from raybench.scoring.evidence import Batch, Labels, batches, evaluating, finite_outputs, members_by_parameter
from raybench.scoring.gather import gather
from raybench.scoring.recompute import Recomputed, _left, _only
from raybench.scoring.running_sums import RunningSums, _outputs, _positions, _scatter
from raybench.scoring.scorer import Scorer, Scoring
from tests.oracles import nets
from tests.oracles.nets import member


def calibration(n: int = 6, batch_size: int = 4, **more) -> Calibration:
    return Calibration(*nets.images(n), batch_size, **more)


class Seeing(Importance):
    """Notes every call; its state is the number of calls."""

    def __init__(self, needs) -> None:
        self.needs, self.calls = needs, []

    def observe(self, layer, inputs, output, state):
        assert not inputs.requires_grad
        assert not output.requires_grad
        self.calls.append(("observe", (layer.name, layer.side, layer.kind), inputs, output.clone(), state))
        return (state or 0) + 1

    def observe_gradient(self, layer, output, gradient, state):
        assert not gradient.requires_grad
        self.calls.append(("gradient", (layer.name, layer.side, layer.kind), gradient, output, state))
        return (state or 0) + 1


@pytest.mark.parametrize("needs", ["activations", ("activations", "gradients")])
def test_each_watched_side_is_shown_its_inputs_outputs_and_gradients(needs) -> None:
    net, groups = nets.build("plain")
    net.eval()
    criterion, data = Seeing(needs), calibration()
    found = gather(criterion, net, groups, data)
    sides = {(m.layer, m.side): m.kind for group in groups for m in group.members}
    times = 2 if needs == "activations" else 4  # two batches
    assert found.states == dict.fromkeys(sides, times)
    seen = {(name, side): [] for name, side in sides}
    for what, (name, side, kind), first, output, state in criterion.calls:
        assert kind == sides[name, side]
        seen[name, side].append((what, first, output, state))
    for (name, _), calls in seen.items():
        inputs, outputs = [], []
        handle = net.get_submodule(name).register_forward_hook(
            lambda m, i, o, a=inputs, b=outputs: a.append(i[0]) or b.append(o)
        )
        with torch.no_grad():
            for part in data.images.split(4):
                net(part)
        handle.remove()
        assert [state for *_, state in calls] == [None, *range(1, times)]
        kinds = ["observe"] * 2 if times == 2 else ["observe", "gradient"] * 2
        assert [what for what, *_ in calls] == kinds
        shown = [(first, output) for what, first, output, _ in calls if what == "observe"]
        for (first, output), one, other in zip(shown, inputs, outputs, strict=True):
            torch.testing.assert_close(first, one)
            torch.testing.assert_close(output, other)
        for what, gradient, output, _ in calls:
            assert what == "observe" or gradient.shape == output.shape
    assert not any(m._forward_hooks for m in net.modules())


def test_the_gradients_shown_are_those_of_each_images_own_loss() -> None:
    net, groups = nets.build("plain")
    net.eval()
    criterion, data = Seeing(("activations", "gradients")), calibration(5, 4)
    gather(criterion, net, groups, data)
    wanted = ("gradient", ("conv1", "out", "conv"))
    shown = [first for what, where, first, *_ in criterion.calls if (what, where) == wanted]
    assert [len(one) for one in shown] == [4, 1]
    for number, (image, label) in enumerate(zip(data.images, data.labels, strict=True)):
        kept = []
        handle = net.conv1.register_forward_hook(lambda m, i, o, kept=kept: (o.retain_grad(), kept.append(o))[0])
        nn.functional.cross_entropy(net(image[None]), label[None]).backward()
        handle.remove()
        torch.testing.assert_close(torch.cat(shown)[number], kept[0].grad[0], rtol=1e-4, atol=1e-8)


def test_evidence_says_how_long_it_took_and_holds_what_is_needed_alone(monkeypatch) -> None:
    net, groups = nets.build("plain")
    clock = iter([10.0, 12.5] * 3)
    monkeypatch.setattr(gathering.time, "perf_counter", lambda: next(clock))
    empty = Evidence()
    fields = {"gradients": "gradients", "sample-gradients": "gradient_squares", "activations": "states"}
    for needs, field in fields.items():
        found = gather(Seeing(needs), net, groups, calibration())
        filled = {f.name for f in dataclasses.fields(found) if len_of(getattr(found, f.name))}
        assert filled == {field, "seconds"}
        assert found.seconds == 2.5
    assert gather(Seeing("weights"), net, groups, None) == empty
    assert gather(Seeing("nothing"), net, groups, None) == empty


def len_of(value) -> int:
    return int(bool(value)) if isinstance(value, float) else len(value)


def test_too_few_images_name_the_criterion_and_its_needs() -> None:
    net, groups = nets.build("plain")
    for needs, said in (("activations", "activations"), (("activations", "gradients"), "activations and gradients")):
        with pytest.raises(UserError) as error:
            gather(Seeing(needs), net, groups, None)
        assert str(error.value) == f"Seeing needs {said}, but there are no calibration images"
    hungry = Seeing("activations")
    hungry.min_images = 7
    with pytest.raises(UserError) as error:
        gather(hungry, net, groups, calibration())
    assert str(error.value) == "Seeing needs at least 7 calibration images; there are 6"
    hungry.min_images = 6
    gather(hungry, net, groups, calibration())


def layer(**changes) -> Layer:
    net, groups = nets.build("plain")
    return dataclasses.replace(view(net, groups.groups[0].members[0]), **changes)


class Answers(ElementwiseImportance):
    """Gives what it was made with."""

    def __init__(self, answer) -> None:
        self.answer = answer

    def layer_scores(self, layer):
        return self.answer

    def saliency(self, layer):
        return self.answer


@pytest.mark.parametrize("method", ["layer_scores", "saliency"])
def test_wrong_answers_are_told_with_criterion_layer_and_what_was_expected(method) -> None:
    one = layer()
    shape = (len(one.weight),) if method == "layer_scores" else tuple(one.weight.shape)
    what = "one score for each channel" if method == "layer_scores" else "one score for each weight"
    where = f"Answers.{method} of layer {one.name!r} ({one.kind}, {one.side} side)"
    check = getattr(contract, method)
    right = torch.zeros(shape)
    assert check(Answers(right), one) is right
    for answer, said in (
        (3.5, f"found float, expected a tensor {shape}, {what}"),
        (torch.zeros(2, 99), f"found the shape (2, 99), expected {shape}, {what}"),
        (-torch.ones(shape), "found negative scores, expected 0 or more"),
    ):
        with pytest.raises(StageError) as error:
            check(Answers(answer), one)
        assert f"{where}: {said}" in str(error.value)
        assert error.value.stage == "select"
    if method == "layer_scores":
        assert contract.layer_scores(Answers(None), one) is None


def test_a_layer_with_some_channels_left_has_them_in_every_field() -> None:
    names = ("weight", "bias", "gradient", "gradient_square", "before", "after", "unit")
    values = {name: torch.arange(4.0) + number for number, name in enumerate(names)}
    whole, left = layer(**values), torch.tensor([0, 2, 3])
    some = _only(whole, left)
    for name in names:
        assert torch.equal(getattr(some, name), values[name][left])
    for name in ("bias", "gradient", "gradient_square", "before", "after", "unit"):
        assert getattr(_only(dataclasses.replace(whole, **{name: None}), left), name) is None
    others = {f.name for f in dataclasses.fields(whole)} - set(names)
    assert all(getattr(some, name) is getattr(whole, name) for name in others)
    assert _left(None) is None
    assert _left(np.array([True, True])) is None
    assert _left(np.array([False, True, True])).tolist() == [1, 2]


class Looking(ElementwiseImportance):
    """Keeps the layers that it is shown."""

    normalize, needs = "none", "gradients"

    def __init__(self) -> None:
        self.seen = []

    def saliency(self, layer):
        self.seen.append(layer)
        return layer.weight.abs() + layer.seed


class Largest(Looking):
    reduce = "max"


@pytest.mark.parametrize("kind", [Looking, Largest])
def test_criteria_are_shown_layers_with_evidence_and_seed(kind) -> None:
    net, groups = nets.build("plain")
    evidence = gather(kind(), net, groups, calibration())
    criterion = kind()
    raw = scoring._raw_scores(criterion, groups)(criterion, net, groups, evidence, 5)
    assert type(raw) is (RunningSums if kind is Looking else Recomputed)
    raw.start()
    assert criterion.seen
    for seen in criterion.seen:
        assert seen.seed == 5
        assert seen.gradient.shape == seen.weight.shape
        gradient = evidence.gradients[f"{seen.name}.weight"]
        assert float(seen.gradient.sum()) == pytest.approx(float(gradient.sum()), rel=1e-4, abs=1e-6)


def test_a_scoring_makes_scorers_of_its_own_parts(monkeypatch) -> None:
    net, groups = nets.build("plain")
    criterion, data, made, gathered = Looking(), calibration(), [], []
    monkeypatch.setattr(scoring, "gather", lambda *args: gathered.append(args) or "evidence")
    monkeypatch.setattr(scoring, "Scorer", lambda *args: made.append(args) or "scorer")
    assert Scoring(criterion, net, data, 9).scorer(groups) == "scorer"
    assert (gathered, made) == ([(criterion, net, groups, data)], [(criterion, net, groups, "evidence", 9)])
    assert (Scoring(criterion, net).calibration, Scoring(criterion, net).seed) == (None, 0)


def test_scores_that_are_not_finite_name_their_group() -> None:
    class Broken(Looking):
        needs = "weights"

        def saliency(self, layer):
            return layer.weight.abs() * (float("inf") if layer.name == "conv2" else 1.0)

    net, groups = nets.build("plain")
    with pytest.raises(StageError) as error:
        Scorer(Broken(), net, groups)
    names = [group.name for group in groups if any(m.layer == "conv2" for m in group.members)]
    assert str(error.value).endswith(f"the scores of group {names[0]!r} are not finite")
    assert error.value.stage == "select"


def test_scores_that_are_handed_out_are_the_scorers_list_anew() -> None:
    net, groups = nets.build("plain")
    scorer = Scorer(Plain(), net, groups)
    first = scorer.scores()
    first[0] = None
    assert scorer.scores()[0] is not None
    alive = [np.ones(group.size, dtype=bool) for group in groups]
    alive[0][1] = False
    some = scorer.scores(alive)
    alive[0][1] = True  # the caller's array, not the scorer's
    for a, b in zip(scorer.scores([a.copy() for a in alive]), scorer.scores(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(some[1], scorer.scores()[1])


class Plain(ElementwiseImportance):
    normalize = "none"

    def saliency(self, layer):
        return layer.weight.abs()


def test_batches_have_shares_that_add_up_and_the_images_in_order() -> None:
    net, _ = nets.build("plain")
    data = calibration(7, 3)
    found = list(batches(net, data))
    assert [len(batch.images) for batch in found] == [3, 3, 1]
    assert [batch.share for batch in found] == [3 / 7, 3 / 7, 1 / 7]
    assert torch.equal(torch.cat([batch.images for batch in found]), data.images)
    assert torch.equal(torch.cat([batch.labels for batch in found]), data.labels)
    one = found[0].only(1)
    assert torch.equal(one.images, data.images[1:2])
    assert torch.equal(one.labels, data.labels[1:2])
    assert one.share == 3 / 7


def test_labels_are_true_or_drawn_by_a_copy_of_the_generator() -> None:
    own = torch.Generator().manual_seed(3)
    state = own.get_state()
    data = calibration(generator=own, loss=lambda output, labels: output.sum() + labels.sum())
    outputs, batch = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), Batch(*nets.images(6), 1.0)
    true, drawn = Labels("true", data), Labels("sampled", data)
    assert true.choose(outputs, batch) is batch
    assert float(true.loss(outputs, batch)) == pytest.approx(float(outputs.sum() + batch.labels.sum()))
    chosen = drawn.choose(outputs, batch)
    expected = torch.multinomial(outputs.double().softmax(1), 1, generator=torch.Generator().manual_seed(3)).squeeze(1)
    assert torch.equal(chosen.labels, expected)
    assert chosen.images is batch.images
    assert float(drawn.loss(outputs, chosen)) == pytest.approx(float(nn.functional.cross_entropy(outputs, expected)))
    assert torch.equal(own.get_state(), state)
    plain = Labels("sampled", calibration())
    zero = torch.multinomial(outputs.double().softmax(1), 1, generator=torch.Generator().manual_seed(0)).squeeze(1)
    assert torch.equal(plain.choose(outputs, batch).labels, zero)
    default = Labels("true", calibration())
    assert float(default.loss(outputs, batch)) == pytest.approx(
        float(nn.functional.cross_entropy(outputs, batch.labels))
    )


def test_hooks_and_modes_are_gone_afterwards_and_stages_are_named() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU()))
    net[1].train(False)
    with evaluating(net):
        assert not any(m.training for m in net.modules())
    assert [m.training for m in net.modules()] == [True, True, False, False]
    with pytest.raises(StageError) as error, finite_outputs(net, "measure"):
        net(torch.full((1, 2), float("nan")))
    assert error.value.stage == "measure"
    assert "activations of layer '0' have NaN or infinite values" in str(error.value)
    with finite_outputs(net):
        net(torch.ones(1, 2))
    assert not any(m._forward_hooks for m in net.modules())


def test_parameters_that_are_not_scored_are_not_among_the_members() -> None:
    net, groups = nets.build("plain")
    found = members_by_parameter(net, groups)
    assert list(found) == list(dict.fromkeys(f"{m.layer}.weight" for group in groups for m in group.members))
    bare = Groups((*groups.groups, Group("p", 4, (member("pos", "parameter", "out", 4),))))
    assert list(members_by_parameter(net, bare)) == list(found)


def test_positions_of_units_and_sums_over_them() -> None:
    own = member("a", "linear", "in", 6, [4, 0, 2, 5], [1, 0, 1, 0])  # two positions each
    assert _positions(own, 2)(np.array([1])).tolist() == [4, 2]
    assert _positions(own, 2)(np.array([0, 1])).tolist() == [0, 5, 4, 2]
    assert _scatter(own, 2)(np.arange(6.0)).tolist() == [5, 6]
    part = member("a", "linear", "in", 6, [1, 3], [0, 1])
    assert _positions(part, 2)(np.array([1])).tolist() == [3]
    assert _scatter(part, 2)(np.arange(6.0)).tolist() == [1, 3]
    whole, values = member("a", "linear", "in", 2), np.arange(2.0)
    assert _positions(whole, 2)(values) is values
    assert _scatter(whole, 2)(values) is values
    turned = member("a", "linear", "in", 2, [0, 1], [1, 0])
    assert _positions(turned, 2)(np.array([0])).tolist() == [1]
    assert _scatter(turned, 2)(np.array([5.0, 7.0])).tolist() == [7, 5]
    assert (_outputs(nn.Linear(2, 3)), _outputs(nn.Conv2d(2, 4, 1))) == (3, 4)
