"""Starts of methods for `raybench new-method`: each runs as it is, one for each kind of evidence."""

from __future__ import annotations

from collections.abc import Sequence

ELEMENTWISE = '''"""{title}: one line on what makes a channel worth keeping."""

from dataclasses import dataclass

from torch import Tensor

from raybench.methods.protocols import ElementwiseImportance, Layer
from raybench.registry import importance


@importance("{name}")
@dataclass(frozen=True)
class {cls}(ElementwiseImportance):
    """{what}"""

    power: float = 1.0  # a parameter; in a sweep: {{name: {name}, params: {{power: 2}}}}, or [1, 2] for two methods

    needs = {needs}
    paper = "authors, venue, equation"
    version = 1  # increase it when the numbers change

    def saliency(self, layer: Layer) -> Tensor:
        """Score of each weight, non-negative, of layer.weight's shape (channels, ...). High scores are kept."""
{body}
'''

ACTIVATIONS = '''"""{title}: one line on what makes a channel worth keeping."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from raybench.groups.records import Group, Member
from raybench.methods.protocols import Importance, Layer, has_filters
from raybench.registry import importance


@importance("{name}")
@dataclass(frozen=True)
class {cls}(Importance):
    """Mean of |a|^power over a channel's outputs on the calibration images."""

    power: float = 1.0  # a parameter; in a sweep: {{name: {name}, params: {{power: 2}}}}, or [1, 2] for two methods

    needs = {needs}
    paper = "authors, venue, equation"
    version = 1  # increase it when the numbers change

    def watched(self, group: Group) -> tuple[Member, ...]:
        """The layers to observe: those whose outputs are the group's channels."""
        return tuple(member for member in group.members if has_filters(member))

    def observe(self, layer: Layer, inputs: Tensor, output: Tensor, state: Any) -> Any:
        """One batch: (sum over images, number of images) so far. Convolutions give (n, channels, height, width)."""
        values = output.abs() ** self.power
        values = values.flatten(2).mean(2) if layer.kind != "linear" else values.flatten(0, -2)
        total, count = state or (0.0, 0)
        return total + values.sum(0), count + len(values)

    def layer_scores(self, layer: Layer) -> Tensor | None:
        """(channels,), non-negative; high scores are kept. None where nothing was observed."""
        if layer.state is None:
            return None
        total, count = layer.state
        return total / count
'''

ACTIVATIONS_AND_GRADIENTS = '''"""{title}: one line on what makes a channel worth keeping."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from raybench.groups.records import Group, Member
from raybench.methods.protocols import Importance, Layer, has_filters
from raybench.registry import importance


@importance("{name}")
@dataclass(frozen=True)
class {cls}(Importance):
    """Mean of |mean over positions of a dL/da|^power over the calibration images, a the channel's output."""

    power: float = 1.0  # a parameter; in a sweep: {{name: {name}, params: {{power: 2}}}}, or [1, 2] for two methods

    needs = {needs}  # layer_scores finds layer.gradient too
    paper = "authors, venue, equation"
    version = 1  # increase it when the numbers change

    def watched(self, group: Group) -> tuple[Member, ...]:
        """The layers to observe: those whose outputs are the group's channels."""
        return tuple(member for member in group.members if has_filters(member))

    def observe_gradient(self, layer: Layer, output: Tensor, gradient: Tensor, state: Any) -> Any:
        """One batch: (sum over images, number of images) so far; `gradient` is that of each image's own loss."""
        product = output * gradient
        values = product.flatten(2).mean(2) if layer.kind != "linear" else product.flatten(0, -2)
        total, count = state or (0.0, 0)
        return total + (values.abs() ** self.power).sum(0), count + len(values)

    def layer_scores(self, layer: Layer) -> Tensor | None:
        """(channels,), non-negative; high scores are kept. None where nothing was observed."""
        if layer.state is None:
            return None
        total, count = layer.state
        return total / count
'''

REGULARIZER = '''"""{title}: one line on what the penalty drives to zero."""

from dataclasses import dataclass

from torch import nn

from raybench.groups.records import Groups
from raybench.methods.penalty import bind_groups
from raybench.methods.protocols import Regularizer
from raybench.registry import regularizer


@regularizer("{name}")
@dataclass
class {cls}(Regularizer):
    """strength / 2 * sum over units of ||w_k||^2."""

    strength: float = 1e-4  # in a sweep: {{name: magnitude-l2+{name}, regularizer_params: {{strength: 0.01}}}}
    paper = "authors, venue, equation"

    def bind(self, model: nn.Module, groups: Groups) -> None:
        self.groups = bind_groups(model, groups)

    def add_gradients(self) -> None:
        for group in self.groups:  # group.squares(): (units,) squared norms; pull: grad += value[unit] * w
            group.pull(group.squares().new_full((group.size,), self.strength))
'''

SELECTION = '''"""{title}: one line on what is trained, and which channels go."""

from dataclasses import dataclass

from torch import nn

from raybench.methods.trained_selection import Budget, Kept, TrainedSelection
from raybench.registry import selection


@selection("{name}")
@dataclass
class {cls}(TrainedSelection):
    """strength * sum |gamma|; the channels with the smallest |gamma| go, as many as the speed-up demands."""

    strength: float = 1e-3  # in a sweep: {name}(strength=0.01)
    requires = "batch-norm"
    paper = "authors, venue, equation"

    def attach(self, model: nn.Module, budget: Budget) -> None:
        norms = {{g.name: [m.layer for m in g.members if m.kind == "norm"] for g in budget.groups}}
        self.scales = {{name: model.get_submodule(own[0]).weight for name, own in norms.items() if own}}
        self.budget = budget

    def add_gradients(self) -> None:
        for scale in self.scales.values():
            scale.grad.add_(scale.detach().sign(), alpha=self.strength)

    def kept(self) -> Kept:
        return self.budget.choose({{name: scale.detach().abs().cpu().numpy() for name, scale in self.scales.items()}})
'''

TOKEN = '''"""{title}: one line on which tokens go."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from raybench.registry import token
from raybench.tokens.attention import Seen
from raybench.tokens.reducer import Stages, TokenReducer
from raybench.tokens.select import kept_tokens
from raybench.tokens.shape import Shape


@token("{name}")
@dataclass(frozen=True)
class {cls}(TokenReducer):
    """Between attention and MLP the patches with the smallest norm go, as many in every block."""

    order: float = 2.0  # of the norm; in a sweep: {name}(order=1)
    train: Literal["finetune", "none"] = "finetune"  # the default first; "none": without training

    place = "mlp"  # tokens go in front of a block's MLP; "block": in front of the block
    needs = "nothing"  # "fine-tuning" where the method has weights of its own
    paper = "authors, venue, equation"
    version = 1  # increase it when the numbers change

    def removed(self, shape: Shape, amount: float) -> tuple[int, ...]:
        """Tokens that each block removes; more for a larger amount, none for 0. The asked speed-up gives the amount."""
        each, rest = divmod(round(amount * (shape.patches - 1)), shape.depth)
        return tuple(each + (block < rest) for block in range(shape.depth))

    def attach(self, shape: Shape, removed: tuple[int, ...]) -> Stages:
        """What runs between the parts of the blocks."""
        return _Smallest(self.order, shape.prefix, shape.left(removed))


class _Smallest(Stages):
    """A module: parameters of its own are trained with the network."""

    def __init__(self, order: float, prefix: int, left: tuple[int, ...]) -> None:
        super().__init__()
        self.order, self.prefix, self.left = order, prefix, left  # prefix: class tokens, which stay

    def before_mlp(self, block: int, tokens: Tensor, seen: Seen, flow: Any) -> tuple[Tensor, Any]:
        scores = tokens[:, self.prefix :].norm(self.order, dim=2)
        return kept_tokens(tokens, scores, self.left[block], self.prefix), flow
'''

_BODIES = {  # needs, one or several -> what the class computes, and the body of its saliency
    "weights": ("Sum of |w|^power over a channel's weights.", "        return layer.weight.abs() ** self.power"),
    "gradients": (
        "Sum of |w g|^power over a channel's weights, with the gradient g of the mean loss.",
        "        if layer.gradient is None:  # the loss ignores this weight\n"
        "            return layer.weight.abs() * 0\n"
        "        return (layer.weight * layer.gradient).abs() ** self.power",
    ),
    "sample-gradients": (
        "Sum of (w^2 E[g^2])^power over a channel's weights, with the gradient g of each sample.",
        "        if layer.gradient_square is None:  # the loss ignores this weight\n"
        "            return layer.weight.abs() * 0\n"
        "        return (layer.weight.square() * layer.gradient_square) ** self.power",
    ),
    "gradients, sample-gradients": (
        "Sum of (|w| E[g]^2 / Var[g])^power over a channel's weights: the signal-to-noise ratio of their gradients.",
        "        if layer.gradient is None or layer.gradient_square is None:  # the loss ignores this weight\n"
        "            return layer.weight.abs() * 0\n"
        "        signal = layer.gradient.square()\n"
        "        noise = (layer.gradient_square - signal).clamp(min=0)\n"
        "        return (layer.weight.abs() * signal / (noise + 1e-12)) ** self.power",
    ),
}
NEEDS = ("weights", "gradients", "sample-gradients", "activations")


OTHERS = {  # methods besides criteria: the option -> what it is in words, the template
    "regularizer": ("regularizer", REGULARIZER),
    "selection": ("trained selection", SELECTION),
    "token": ("token reducer", TOKEN),
}


def template_of(name: str, needs: Sequence[str], kind: str | None = None) -> str:
    """The text of a new method's file.

    Args:
        name: of the method in sweeps.
        needs: what a criterion looks at, one or several of NEEDS.
        kind: a name in OTHERS; None: a criterion.

    Example:
        >>> "needs = \\"gradients\\"" in template_of("my-own", ["gradients"])
        True
    """
    words = name.split("-")
    names = {"name": name, "cls": "".join(word.capitalize() for word in words), "title": " ".join(words).capitalize()}
    if kind:
        return OTHERS[kind][1].format(**names)
    quoted = ", ".join(f'"{kind}"' for kind in needs)
    literal = quoted if len(needs) == 1 else f"({quoted})"
    if "activations" in needs:
        template = ACTIVATIONS_AND_GRADIENTS if "gradients" in needs else ACTIVATIONS
        return template.format(**names, needs=literal)
    what, body = _BODIES[", ".join(sorted(needs))]
    return ELEMENTWISE.format(**names, needs=literal, what=what, body=body)
