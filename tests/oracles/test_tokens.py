"""Token methods beside their formulas in float64, and on cases whose answer is known."""

import itertools

import numpy as np
import pytest
import torch

from raybench import registry
from raybench.methods.tokens.tome import merge
from raybench.models.small import small_vit
from raybench.tokens.attached import reduced, reducer_named
from raybench.tokens.attention import Seen
from raybench.tokens.shape import Shape
from raybench.tokens.shares import shared_softmax
from tests.oracles import token_formulas


@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
@pytest.mark.parametrize(("count", "gone"), [(16, 1), (17, 5), (21, 8)])
def test_tome_merges_as_its_paper_says(prefix, count, gone):
    draw = np.random.default_rng(count + prefix)
    tokens, keys = draw.normal(size=(3, count, 6)), draw.normal(size=(3, count, 4))
    size = draw.integers(1, 5, size=(3, count)).astype(float)
    found, sizes = merge(*map(torch.tensor, (tokens, size, keys)), gone, prefix)
    assert found.shape == (3, count - gone, 6)
    for image in range(3):
        left, expected = token_formulas.tome(tokens[image], size[image], keys[image], gone, prefix)
        np.testing.assert_allclose(found[image], left, rtol=1e-12)
        np.testing.assert_array_equal(sizes[image], expected)
    np.testing.assert_allclose((found * sizes[..., None]).sum(1), (tokens * size[..., None]).sum(1))  # nothing is lost


def test_tome_merges_the_pair_with_equal_keys():
    """Class token, then patches 1 to 6: 2, 4, 6 are A, 1, 3, 5 are B. Only 4 and 1 look the same way."""
    keys = torch.eye(7)
    keys[4] = 3 * keys[1]
    tokens = torch.arange(7.0)[:, None] * 10
    found, sizes = merge(tokens[None], torch.ones(1, 7), keys[None], 1, prefix=1)
    assert found[0, :, 0].tolist() == [0.0, 20.0, 60.0, 25.0, 30.0, 50.0]  # (40 + 10) / 2 in the place of 1
    assert sizes[0].tolist() == [1.0, 1.0, 1.0, 2.0, 1.0, 1.0]


@pytest.fixture(params=[True, False], ids=["class token", "mean"])
def vit(request):
    torch.manual_seed(3)
    made = small_vit(5, 3, 16, embed_dim=12, depth=4, num_heads=2, class_token=request.param).double().eval()
    return made.requires_grad_(False)


def nets_of(vit, method, removed):
    """The reduced network, and three images."""
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return reduced(vit, images[:1], reducer_named(method, {}), removed)[0].double().eval(), images


def test_tome_in_a_whole_network(vit):
    removed, prefix = (3, 2, 4, 1), vit.num_prefix_tokens

    def before_mlp(block, tokens, keys, attention, state):
        size = state.get("size", np.ones(len(tokens)))
        left, size = token_formulas.tome(tokens.numpy(), size, keys.mean(0), removed[block], prefix)
        return torch.tensor(left), {"size": size}

    net, images = nets_of(vit, "tome", removed)
    expected = torch.stack([token_formulas.forward(vit, image, before_mlp) for image in images])
    torch.testing.assert_close(net(images), expected, rtol=1e-9, atol=1e-9)


def test_cp_vit_in_a_whole_network(vit):
    removed, prefix = (0, 4, 3, 2), vit.num_prefix_tokens

    def before_mlp(block, tokens, keys, attention, state):
        score = state.get("score", np.zeros(len(tokens) - prefix))
        stay, score = token_formulas.cp_vit(attention, score, len(score) - removed[block], prefix)
        return tokens[[*range(prefix), *(prefix + p for p in stay)]], {"score": score}

    net, images = nets_of(vit, "cp-vit", removed)
    expected = torch.stack([token_formulas.forward(vit, image, before_mlp) for image in images])
    torch.testing.assert_close(net(images), expected, rtol=1e-9, atol=1e-9)


def test_cp_vit_removes_what_nobody_looks_at():
    """Two heads; every query looks at patches 0 and 2 alone."""
    attention = torch.tensor([0.0, 0.5, 0.0, 0.5, 0.0]).expand(1, 2, 5, 5)
    stages = registry.token.load("cp-vit")().attach(Shape(4, 1, 1, (1,)), (2,))
    tokens, scores = stages.before_mlp(0, torch.arange(5.0)[None, :, None], Seen(torch.zeros(1), attention), None)
    assert (tokens.flatten().tolist(), scores.tolist()) == ([0.0, 1.0, 3.0], [[1.0, 1.0]])


def test_dynamicvit_masks_attention_as_its_paper_says():
    draw = np.random.default_rng(0)
    logits, kept = draw.normal(size=(2, 3, 7, 7)), draw.integers(0, 2, size=(2, 7)).astype(float)
    found = shared_softmax(torch.tensor(logits), torch.tensor(kept)).numpy()
    for image in range(2):
        for head in range(3):
            expected = token_formulas.policy_softmax(logits[image, head], kept[image])
            np.testing.assert_allclose(found[image, head], expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("larger", [0.0, 30.0])
def test_the_gradient_of_a_dropped_token_is_what_keeping_it_would_change(larger):
    """However much larger its logit is than those of kept tokens, of which the plain gradient is a power."""
    torch.manual_seed(0)
    logits, weights = torch.randn(2, 3, 6, 6).double(), torch.randn(2, 3, 6, 6).double()
    logits[..., 4] += larger

    def total(share):
        return (shared_softmax(logits, share) * weights).sum((1, 2, 3))

    share = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0]).double().repeat(2, 1).requires_grad_()
    (found,) = torch.autograd.grad(total(share).sum(), share)
    for token in (1, 4):
        one_more = share.detach().clone()
        one_more[:, token] = 1
        torch.testing.assert_close(found[:, token], (total(one_more) - total(share)).detach())


def test_gradients_of_kept_tokens_and_of_logits_are_those_of_the_formula():
    torch.manual_seed(0)
    logits = torch.randn(1, 2, 4, 4).double().requires_grad_()
    share = torch.ones(1, 4).double().requires_grad_()
    own = torch.eye(4).double()
    plain = logits.exp() * (share[:, None, None] * (1 - own) + own)
    weights = torch.randn(1, 2, 4, 4).double()
    expected = torch.autograd.grad((plain / plain.sum(-1, keepdim=True) * weights).sum(), (logits, share))
    found = torch.autograd.grad((shared_softmax(logits, share) * weights).sum(), (logits, share))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_the_losses_of_dynamicvit(vit):
    net, images = nets_of(vit, "dynamicvit", (0, 6, 4, 3))
    for one in net.stages.predictors.values():
        one.leave[-1].bias.data[0] = 2.0  # most tokens stay
    torch.manual_seed(5)
    net.train()
    outputs = net(images)
    tokens, flow = net._last
    prefix = vit.num_prefix_tokens
    teacher_outputs, whole = vit(images), vit.forward_features(images)
    behind = [vit.fc_norm(one) if isinstance(vit.norm, torch.nn.Identity) else one for one in (tokens, whole)]
    expected = token_formulas.dynamicvit_loss(
        [one.numpy(force=True) for one in flow], [10 / 16, 6 / 16, 3 / 16], outputs.numpy(force=True),
        teacher_outputs.numpy(), *(one[:, prefix:].numpy(force=True) for one in behind),
    )  # fmt: skip
    assert float(net.extra_loss(outputs, images, vit).detach()) == pytest.approx(expected, rel=1e-9)
    assert all(bool((later <= earlier).all()) for earlier, later in itertools.pairwise(flow))  # gone stays gone


def test_dropped_tokens_change_nothing_but_themselves():
    """Masked training sees what inference sees: with the same decision, both give the same outputs."""
    torch.manual_seed(0)
    vit = small_vit(5, 3, 16, embed_dim=12, depth=4, num_heads=2, class_token=True).double()
    net, images = nets_of(vit, "dynamicvit", (0, 6, 4, 3))
    expected = net(images)
    predictors = net.stages.predictors

    def certain(module, inputs, output):
        """Log-probabilities that leave no doubt: the best ones stay, as in inference."""
        _, before = inputs
        score = output[..., 0].masked_fill(before == 0, -1e9)
        stay = torch.zeros_like(score).scatter(1, score.topk(counts[id(module)], dim=1).indices, 1.0)
        return torch.stack([stay * 1e6, (1 - stay) * 1e6], 2)

    counts = {id(predictors["1"]): 10, id(predictors["2"]): 6, id(predictors["3"]): 3}
    handles = [one.register_forward_hook(certain) for one in predictors.values()]
    masked = net.train()(images)
    assert not torch.equal(masked, expected)
    torch.testing.assert_close(masked, expected, rtol=1e-4, atol=1e-5)
    for handle in handles:
        handle.remove()
