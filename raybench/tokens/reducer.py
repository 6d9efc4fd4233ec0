"""The base class of token methods, and of what they attach to the blocks of a vision transformer."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from raybench.tokens.attention import Seen
from raybench.tokens.shape import Place, Shape


class Stages(nn.Module):
    """What a token method does between the parts of a network's blocks; this one does nothing.

    `TokenViT` calls the methods in the order in which they stand here. `flow` is the method's own state of one forward
    pass: whatever `start` returns.

    Attributes:
        learns: whether `extra_loss` is added to the loss of training.
    """

    learns: ClassVar[bool] = False

    def start(self, tokens: Tensor) -> Any:
        """State at the start of a forward pass of `tokens`, (n, tokens, channels)."""
        return None

    def before_block(self, block: int, tokens: Tensor, flow: Any) -> tuple[Tensor, Any]:
        """Tokens and state that reach a block."""
        return tokens, flow

    def bias(self, flow: Any) -> Tensor | None:
        """(n, tokens) that each attention adds to the logits of its keys; None: nothing."""
        return None

    def share(self, flow: Any) -> Tensor | None:
        """(n, tokens) of 0 and 1: which keys the other tokens see; None: all."""
        return None

    def reads_attention(self, block: int) -> bool:
        """Whether `before_mlp` reads the block's attention; fused kernels, which don't give it, are then off."""
        return False

    def before_mlp(self, block: int, tokens: Tensor, seen: Seen, flow: Any) -> tuple[Tensor, Any]:
        """Tokens and state that reach a block's MLP; `seen` is what its attention computed."""
        return tokens, flow

    def weights(self, flow: Any) -> Tensor | None:
        """(n, tokens) weights of the mean over tokens of networks that pool; None: all alike."""
        return None

    def extra_loss(self, outputs: Tensor, tokens: Tensor, flow: Any, teacher: tuple[Tensor, Tensor]) -> Tensor:
        """What is added to the classification loss, when `learns`.

        Args:
            outputs: (n, classes) of this network.
            tokens: (n, tokens, channels) behind its last norm.
            flow: the state at the end of the forward pass.
            teacher: outputs and tokens of the whole network for the same images.

        Returns:
            A scalar.
        """
        return outputs.new_zeros(())

    def learning_rates(self, now: float, highest: float, done: float) -> tuple[float, float]:
        """Learning rates while the reduced network trains; both are the recipe's by default.

        Args:
            now: the recipe's learning rate in this step, as its schedule says.
            highest: the recipe's `lr`, where the schedule starts after its warm-up.
            done: the share of all epochs that is over.

        Returns:
            The rate of the network's parameters, and of the method's own.
        """
        return now, now


class TokenReducer:
    """Base class of every token method: how many tokens leave which block, and what chooses them.

    Subclasses are frozen dataclasses whose fields are the method's parameters, registered with ``@token("name")``.
    Class attributes are literals, read without importing the file. A method removes whole tokens, so that every image
    of a batch keeps as many, and all later layers have less to compute.

    Attributes:
        place: whether tokens go in front of a "block", or of its "mlp", after its attention has seen them.
        needs: "nothing" where the method works as it is, "fine-tuning" where it has weights of its own.
        version: increase it when the numbers change; it is part of trial_id.
        paper: authors, title, venue, section.
        train: parameter of every method: "finetune" trains the reduced network by the recipe, "none" does not.

    Example:
        >>> from dataclasses import dataclass
        >>> from torch import Tensor
        >>> class LastGo(Stages):
        ...     def __init__(self, left):
        ...         super().__init__()
        ...         self.left = left  # tokens that are left before each MLP
        ...     def before_mlp(self, block, tokens, seen, flow):
        ...         return tokens[:, : self.left[block]], flow
        >>> @dataclass(frozen=True)
        ... class LastTokens(TokenReducer):
        ...     train: str = "finetune"
        ...     def removed(self, shape, amount):
        ...         return tuple(round(amount * (shape.patches - 1)) if i == 0 else 0 for i in range(shape.depth))
        ...     def attach(self, shape, removed):
        ...         return LastGo([mlp for _, mlp in shape.counts(removed, self.place)])
        >>> LastTokens().removed(Shape(patches=16, prefix=1, width=8, head_dims=(4, 4)), 0.5)
        (8, 0)
    """

    place: ClassVar[Place] = "mlp"
    needs: ClassVar[str] = "nothing"
    task: ClassVar[str] = "classification"
    version: ClassVar[int] = 1
    paper: ClassVar[str] = ""

    def blocks(self, shape: Shape) -> tuple[int, ...]:
        """Blocks in which tokens may go.

        Args:
            shape: sizes of the network.

        Returns:
            Their numbers, from 0; all by default.
        """
        return tuple(range(shape.depth))

    def removed(self, shape: Shape, amount: float) -> tuple[int, ...]:
        """How many tokens each block removes. More for a larger `amount`, from none at 0 to the most at 1.

        Args:
            shape: sizes of the network.
            amount: 0 to 1.

        Returns:
            One count for each block.

        Raises:
            NotImplementedError: the subclass doesn't define it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define removed(shape, amount)")

    def most(self, shape: Shape, patches: int) -> int:
        """The most tokens that one block can remove.

        Args:
            shape: sizes of the network.
            patches: tokens that reach the block, without class and register tokens.

        Returns:
            A count; by default all but one.
        """
        return patches - 1

    def extra_macs(self, shape: Shape, removed: tuple[int, ...]) -> int:
        """What the method itself multiplies, as torch counts it.

        Args:
            shape: sizes of the network.
            removed: one count for each block.

        Returns:
            MACs per image; none by default.
        """
        return 0

    def attach(self, shape: Shape, removed: tuple[int, ...]) -> Stages:
        """What is called between the parts of the blocks of a network that removes `removed` tokens.

        Args:
            shape: sizes of the network.
            removed: one count for each block.

        Returns:
            A module; its parameters are drawn from torch's global generator, and trained with the network.

        Raises:
            NotImplementedError: the subclass doesn't define it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define attach(shape, removed)")
