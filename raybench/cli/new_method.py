"""`raybench new-method NAME`: writes a template for a new criterion or regularizer."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from raybench import registry
from raybench.errors import UserError

IMPORTANCE = '''"""{title}: one line on what makes a channel worth keeping."""

from dataclasses import dataclass

from torch import Tensor

from raybench.methods.protocols import ElementwiseImportance, Layer
from raybench.registry import importance


@importance("{name}")
@dataclass(frozen=True)
class {cls}(ElementwiseImportance):
    """Sum of |w|^power over a channel's weights."""

    power: float = 1.0  # a parameter; in a sweep: {{name: {name}, params: {{power: 2}}}}

    needs = "weights"  # or "gradients", ...: then layer.gradient, ... are computed first
    paper = "authors, venue, equation"
    version = 1  # increase it when the numbers change

    def saliency(self, layer: Layer) -> Tensor:
        """Score of each weight, non-negative, of layer.weight's shape (channels, ...). High scores are kept."""
        return layer.weight.abs() ** self.power
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


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("name", metavar="NAME", help="name of the method in sweeps: lower case with dashes")
    parser.add_argument(
        "--regularizer", action="store_true", help="write a sparsity regularizer instead of a criterion"
    )
    parser.add_argument(
        "--folder", type=Path, default=Path(), metavar="DIR", help="folder of the new file (default: the current one)"
    )


def run(args: argparse.Namespace) -> None:
    """Write the file and print how to use it. Nothing is overwritten."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", args.name):
        raise UserError(
            f"NAME: found {args.name!r}, expected lower case letters, digits and dashes, such as my-criterion"
        )
    kind = registry.regularizer if args.regularizer else registry.importance
    if args.name in kind.entries():
        raise UserError(f"{kind.kind} {args.name!r} exists already: {kind.entry(args.name).file}")
    path = args.folder / f"{args.name.replace('-', '_')}.py"
    if path.exists():
        raise UserError(f"{path} exists already; choose another name or folder")
    words = args.name.split("-")
    template = REGULARIZER if args.regularizer else IMPORTANCE
    text = template.format(
        name=args.name, cls="".join(w.capitalize() for w in words), title=" ".join(words).capitalize()
    )
    args.folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    print(f"wrote {path}")
    print(f"check it:  python -m raybench.testing.conformance {path}")
    print(f"use it:    raybench run SWEEP --plugin {path}")
