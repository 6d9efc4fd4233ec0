"""The processes that train one network together: each takes its share of every batch, and gradients are added up.

All processes hold the same weights and draw the same batches, so that the numbers are those of one process, but for the
order of float sums. `ALONE` is the team of one process, for which nothing is done.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, Protocol, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from raybench.errors import RaybenchError, UserError
from raybench.tasks.training.norms import shared_norms

T = TypeVar("T")
PATIENCE = timedelta(days=30)  # the others wait so long for a word of the first process, which may score for hours


class PeerLost(RaybenchError):
    """Another process of the team no longer answers."""


class Team(Protocol):
    """What a training loop asks of the processes that share it."""

    size: int  # processes
    rank: int  # of this one, from 0
    marks: tuple[int, ...]  # added to the seed of what each process draws for its own images: dropout, dropped paths

    def share(self, batch: Tensor) -> Tensor:
        """This process's part of something with one entry for each image of a batch."""

    def dealt(self, batches: Sequence[T]) -> Sequence[T]:
        """Those of some whole batches that this process evaluates."""

    def backward(self, model: nn.Module, loss: Tensor, part: float) -> None:
        """Compute the gradients of the whole batch's mean loss; `loss` is that of this process's `part` of it."""

    def sums(self, *numbers: float) -> tuple[float, ...]:
        """The sum of each number over all processes."""

    def agreed(self, value: T) -> T:
        """What the first process has for `value`."""

    def united(self, found: dict[int, T]) -> dict[int, T]:
        """The entries of all processes."""

    def norms(self) -> AbstractContextManager[None]:
        """Context in which batch norms take their statistics from the whole batch."""


class Alone:
    """A process that trains by itself."""

    size, rank = 1, 0
    marks: tuple[int, ...] = ()
    whole = True

    def share(self, batch: Tensor) -> Tensor:
        """All of it."""
        return batch

    def dealt(self, batches: Sequence[T]) -> Sequence[T]:
        """All of them."""
        return batches

    def backward(self, model: nn.Module, loss: Tensor, part: float) -> None:
        """Compute the gradients of `loss`."""
        loss.backward()

    def sums(self, *numbers: float) -> tuple[float, ...]:
        """The numbers."""
        return numbers

    def agreed(self, value: T) -> T:
        """The value."""
        return value

    def united(self, found: dict[int, T]) -> dict[int, T]:
        """The entries."""
        return found

    def norms(self) -> AbstractContextManager[None]:
        """Nothing changes."""
        return nullcontext()


ALONE = Alone()


class Peers:
    """This process and others of a process group of torch.distributed, which exists already.

    Numbers go through the group's own backend (NCCL between GPUs, gloo between CPUs), words always through gloo, whose
    processes sleep while they wait.
    """

    def __init__(self, device: torch.device) -> None:
        """`device`: of this process."""
        self.size, self.rank = dist.get_world_size(), dist.get_rank()
        self.marks = (self.rank,) if self.rank else ()
        self.whole = True  # whether all are at the same place; no longer after an error in the middle of something
        self._device = device
        self._words = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=PATIENCE))  # all are members

    def share(self, batch: Tensor) -> Tensor:
        """One of `size` parts of about equal length."""
        return batch.tensor_split(self.size)[self.rank]

    def dealt(self, batches: Sequence[T]) -> Sequence[T]:
        """Every `size`-th."""
        return batches[self.rank :: self.size]

    def backward(self, model: nn.Module, loss: Tensor, part: float) -> None:
        """Compute the gradients of this part and add up those of all, in one message."""
        (loss * part).backward()
        found = [weight.grad for weight in model.parameters() if weight.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in found])
        self.add_up(flat)
        for gradient, summed in zip(found, flat.split([gradient.numel() for gradient in found]), strict=True):
            gradient.copy_(summed.view_as(gradient))

    def sums(self, *numbers: float) -> tuple[float, ...]:
        """The sum of each number, in float64."""
        values = torch.tensor(numbers, dtype=torch.float64)
        with _answered():
            dist.all_reduce(values, group=self._words)
        return tuple(values.tolist())

    def agreed(self, value: T) -> T:
        """What the first process has, sent to the others."""
        if self.rank:
            found: T = self.hear()
            return found
        self.say(value)
        return value

    def united(self, found: dict[int, T]) -> dict[int, T]:
        """The entries of all processes, as pickles."""
        every: list[dict[int, T]] = [{} for _ in range(self.size)]
        with _answered():
            dist.all_gather_object(every, found, group=self._words)
        return {number: value for one in every for number, value in one.items()}

    def norms(self) -> AbstractContextManager[None]:
        """Context in which the functions of torch take the statistics from all processes."""
        return shared_norms(self.add_up)

    def add_up(self, values: Tensor) -> None:
        """Replace `values` by their sum over all processes."""
        with _answered():
            dist.all_reduce(values)

    def say(self, word: Any) -> None:
        """Send `word` from the first process to all others.

        It holds networks, so it is a pickle. It never leaves the process group, in which Ray sends code, too.
        """
        written = io.BytesIO()
        try:
            torch.save(word, written)
        except Exception as error:  # pickle raises what it likes
            why = str(error).partition("\n")[0]
            raise UserError(
                f"resources: the cell has {self.size} processes, but its network, teacher or regularizer can't be sent "
                f"to them ({type(error).__name__}: {why}); use one process, with one GPU"
            ) from error
        content = torch.frombuffer(written.getbuffer(), dtype=torch.uint8)
        with _answered():
            dist.broadcast(torch.tensor([len(content)]), 0, group=self._words)
            dist.broadcast(content, 0, group=self._words)

    def hear(self) -> Any:
        """Wait for the next word of the first process; its tensors are on this process's device."""
        with _answered():
            length = torch.zeros(1, dtype=torch.int64)
            dist.broadcast(length, 0, group=self._words)
            content = torch.empty(int(length), dtype=torch.uint8)
            dist.broadcast(content, 0, group=self._words)
        return torch.load(io.BytesIO(content.numpy().tobytes()), map_location=self._device, weights_only=False)


@contextmanager
def _answered() -> Iterator[None]:
    """Context of a message; PeerLost where another process has ended."""
    try:
        yield
    except RuntimeError as error:
        raise PeerLost(f"another process of the cell no longer answers ({str(error).partition(chr(10))[0]})") from error
