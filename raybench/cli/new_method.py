"""`raybench new-method NAME`: a starting file for a criterion or regularizer of one's own."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from raybench import registry
from raybench.errors import UserError

IMPORTANCE = '''"""{title}: say in one line what makes a channel worth keeping."""

from dataclasses import dataclass

from torch import Tensor

from raybench.methods.protocols import ElementwiseImportance, Layer
from raybench.registry import importance


@importance("{name}")
@dataclass(frozen=True)
class {cls}(ElementwiseImportance):
    """Sum of |w|^power over a channel's weights."""

    power: float = 1.0  # fields are parameters: {{name: {name}, params: {{power: 2}}}}

    needs = "weights"  # or gradients, sample-gradients, activations; then layer.gradient, ... are there
    paper = "who, where, equation"
    version = 1  # raise it when the numbers change

    def saliency(self, layer: Layer) -> Tensor:
        """Non-negative, shape of layer.weight, whose dimension 0 runs over the channels. High scores stay."""
        return layer.weight.abs() ** self.power
'''

REGULARIZER = '''"""{title}: say in one line what the penalty drives to zero."""

from dataclasses import dataclass

from torch import nn

from raybench.methods.penalty import bind_groups
from raybench.methods.protocols import Regularizer
from raybench.pipeline.records import Groups
from raybench.registry import regularizer


@regularizer("{name}")
@dataclass
class {cls}(Regularizer):
    """strength / 2 * sum over units of ||w_k||^2."""

    strength: float = 1e-4  # fields are parameters
    paper = "who, where, equation"

    def bind(self, model: nn.Module, groups: Groups) -> None:
        self.groups = bind_groups(model, groups)

    def add_gradients(self) -> None:
        for group in self.groups:  # group.squares(): (units,) squared norms; pull: grad += value[unit] * w
            group.pull(group.squares().new_full((group.size,), self.strength))
'''


def arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("name", help="the name that sweeps will use, in lower case with dashes")
    parser.add_argument(
        "--regularizer", action="store_true", help="start a sparsity regularizer instead of a criterion"
    )
    parser.add_argument("--folder", type=Path, default=Path(), help="where to write the file (default: here)")


def run(args: argparse.Namespace) -> None:
    """Write the file and say what to do with it. Nothing is overwritten."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", args.name):
        raise UserError(
            f"{args.name!r} is no method name; expected lower case letters, digits and dashes: my-criterion"
        )
    kind = registry.regularizer if args.regularizer else registry.importance
    if args.name in kind.entries():
        raise UserError(f"there is a {kind.kind} {args.name!r} already: {kind.entry(args.name).file}")
    path = args.folder / f"{args.name.replace('-', '_')}.py"
    if path.exists():
        raise UserError(f"{path} exists; choose another name or folder")
    words = args.name.split("-")
    template = REGULARIZER if args.regularizer else IMPORTANCE
    text = template.format(
        name=args.name, cls="".join(w.capitalize() for w in words), title=" ".join(words).capitalize()
    )
    args.folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    print(f"wrote {path}")
    print(f"check it:  python -m raybench.methods.conformance {path}")
    print(f"use it:    raybench run SWEEP --plugin {path}")
