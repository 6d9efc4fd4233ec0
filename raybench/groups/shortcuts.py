"""Which modules return their input plus something: each is run alone, with every such sum replaced by the input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from raybench.groups.first_run import raise_if_out_of_memory
from raybench.groups.hooks import hooked

aten = torch.ops.aten
SUMS = {aten.add.Tensor, aten.add_.Tensor, aten.sub.Tensor, aten.sub_.Tensor}
SCALED_SUMS = {aten.addcmul.default, aten.addcmul_.default}  # input + scale * branch
MOVES = {  # values stay as they are and may change their place
    aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.permute.default, aten.transpose.int,
    aten.t.default, aten.clone.default, aten.alias.default, aten.detach.default, aten._to_copy.default,
    aten.unsqueeze.default, aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.roll.default,
    aten.flip.default, aten.contiguous.default, aten.expand.default,
}  # fmt: skip


@dataclass(frozen=True)
class _Call:
    """How a module was called, with copies of the tensors."""

    args: tuple[Any, ...]
    named: dict[str, Any]
    returned: bool  # one tensor of the shape of its first input, which is a tensor


def shortcuts(model: nn.Module, image: Tensor) -> dict[str, list[str]]:
    """Modules that return their input once their branches are zero -> where their sums are: names of modules."""
    calls = _calls(model, image)
    found: dict[str, list[str]] = {}
    for name, own_calls in calls.items():
        if not all(call.returned for call in own_calls):
            continue
        sums = [_sums(model, name, call) for call in own_calls]
        if all(sums):
            found[name] = sums[0] or []
    return found


def _calls(model: nn.Module, image: Tensor) -> dict[str, list[_Call]]:
    """How every module with weights and with modules inside is called in one pass; the network itself isn't one."""
    calls: dict[str, list[_Call]] = {}
    began: dict[str, list[tuple[Any, Any]]] = {}

    def before(name: str, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        began.setdefault(name, []).append((_copied(args), _copied(named)))

    def after(name: str, output: Any) -> None:
        args, named = began[name].pop()
        first = args[0] if args else None
        same = isinstance(first, Tensor) and isinstance(output, Tensor) and output.shape == first.shape
        calls.setdefault(name, []).append(_Call(args, named, same))

    hooks = []
    for name, module in model.named_modules():
        if name and next(module.parameters(), None) is not None:
            hooks.append(module.register_forward_pre_hook(lambda m, a, k, n=name: before(n, a, k), with_kwargs=True))
            hooks.append(module.register_forward_hook(lambda m, a, k, o, n=name: after(n, o), with_kwargs=True))
    with hooked(hooks):
        model(image)
    return calls


def _copied(value: Any) -> Any:
    return tree_map(lambda one: one.clone() if isinstance(one, Tensor) else one, value)


def _sums(model: nn.Module, name: str, call: _Call) -> list[str] | None:
    """Names of the modules whose sums carry the input of `name` to its output; None where they don't."""
    block, places = model.get_submodule(name), [name]
    hooks = []
    for inner, module in block.named_modules(prefix=name):
        if inner != name:
            hooks.append(module.register_forward_pre_hook(lambda m, a, n=inner: places.append(n)))
            hooks.append(module.register_forward_hook(lambda m, a, o: _popped(places)))
    source = call.args[0]
    mode = _BranchesAtZero(source.clone(), places)
    with hooked(hooks):
        try:
            with mode:
                output = block(mode.source, *_copied(call.args[1:]), **_copied(call.named))
        except Exception as error:  # what runs in its network may refuse to run alone
            raise_if_out_of_memory(error)
            return None
    same = mode.carries(output) and torch.equal(output, source)
    return mode.sums if same else None


def _popped(places: list[str]) -> None:
    places.pop()


class _BranchesAtZero(TorchDispatchMode):
    """Follows a tensor through operations; a sum of it with something computed from it becomes the tensor itself."""

    def __init__(self, source: Tensor, places: list[str]) -> None:
        super().__init__()
        self.source, self.sums = source, []  # type: Tensor, list[str]
        self._places = places
        self._carrying = {id(source)}
        self._computed: set[int] = set()  # from the source, in other ways
        self._alive: list[Any] = [source]  # so that no id is used again

    def carries(self, tensor: Any) -> bool:
        """Whether `tensor` is the source, with branches at zero."""
        return id(tensor) in self._carrying

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation, or leave a sum out."""
        kwargs = kwargs or {}
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        carrying = [one for one in tensors if self.carries(one)]
        if len(carrying) == 1 and (kept := self._without_branch(func, args, kwargs, carrying[0])) is not None:
            return self._note(kept, carries=True)
        before = carrying[0].clone() if len(carrying) == len(tensors) == 1 else None
        output = func(*args, **kwargs)
        if before is not None and isinstance(output, Tensor) and self._same(func, before, output):
            return self._note(output, carries=True)
        derived = carrying or any(id(one) in self._computed for one in tensors)
        for one in tree_leaves(output) if derived else ():
            if isinstance(one, Tensor):
                self._note(one, carries=False)
        return output

    def _same(self, func: Any, before: Tensor, output: Tensor) -> bool:
        """Whether an operation of one tensor left its values as they were."""
        return func in MOVES or (output.shape == before.shape and torch.equal(output, before))

    def _without_branch(self, func: Any, args: Any, kwargs: Any, carried: Tensor) -> Tensor | None:
        """What stays of a sum of `carried` and a branch that was computed from the source; None for anything else."""
        if func in SCALED_SUMS:
            others = [one for one in args[1:3] if isinstance(one, Tensor)]
            branch = args[0] is carried and any(id(one) in self._computed for one in others)
        elif func in SUMS and len(args) == 2:
            other = args[1] if args[0] is carried else args[0]
            plain = args[0] is carried or ("sub" not in str(func) and kwargs.get("alpha", 1) == 1)
            branch = plain and isinstance(other, Tensor) and id(other) in self._computed
            branch = branch and torch.broadcast_shapes(other.shape, carried.shape) == carried.shape
        else:
            branch = False
        if not branch:
            return None
        self.sums.append(self._places[-1])
        if not str(func.overloadpacket).endswith("_"):
            return carried.clone()
        return args[0] if args[0] is carried else args[0].copy_(carried)

    def _note(self, tensor: Tensor, *, carries: bool) -> Tensor:
        self._alive.append(tensor)
        (self._carrying if carries else self._computed).add(id(tensor))
        (self._computed if carries else self._carrying).discard(id(tensor))
        return tensor
