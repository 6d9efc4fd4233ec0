"""A CUDA device made of the processor's memory, to run on a machine without a GPU what would run on one.

Tensors are ordinary CPU tensors. For each storage it is known whether it stands for memory of the card or of the
host, and `Tensor.device` says so. Results are those of the CPU, to the bit. What CUDA refuses is refused: operands in
both places, `.numpy()`, a CPU generator for the card. What makes the host wait for the card, and what moves between
both, is noted with the line that asked for it. A captured graph holds the operations with the numbers and tensors that
they had, and does them again at each replay. Not there: CUDA's own kernels, their speed and memory, streams that run
side by side. What was made before the card, or within torch, may be in either place.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from raybench.pipeline import patches
from tests.card_graph import Graph, Numbers

aten = torch.ops.aten
CARD, CPU = torch.device("cuda", 0), torch.device("cpu")
ON_CARD, ON_HOST = "card", "host"
CAPTURED = "operation not permitted when stream is capturing"
SYNCHRONIZES = "called a synchronizing CUDA operation"
# the size of their result, or a number for the host, depends on values
READS = {aten._local_scalar_dense, aten.is_nonzero, aten.nonzero, aten.masked_select, aten._unique2, aten.unique_dim,
         aten.unique_consecutive, aten.bincount, aten.equal}  # fmt: skip
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}
OF_PYTHON = {"tensor", "as_tensor", "new_tensor", "asarray"}  # they copy what Python holds


@dataclass(frozen=True)
class Event:
    """What the host did with the card."""

    kind: str  # `wait`: until the card is done; `send`: a copy to it that nobody waits for
    what: str
    where: str  # file:line outside of torch and of this module


class Card:
    """The device: whose memory each storage is, and notes of what was done."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.graph: Graph | None = None  # that captures now
        self.debug = 0  # of torch.cuda.set_sync_debug_mode
        self._places: dict[int, tuple[weakref.ref[Any], str]] = {}

    @property
    def waits(self) -> list[Event]:
        return [one for one in self.events if one.kind == "wait"]

    def note(self, kind: str, what: str) -> None:
        self.events.append(Event(kind, what, _asked_by()))
        if self.graph is not None:
            self.graph.broken = True
            raise torch.AcceleratorError(f"CUDA error: {CAPTURED}\n({what})")
        if kind == "wait" and self.debug:
            warnings.warn(SYNCHRONIZES, stacklevel=2)

    def place(self, tensor: Tensor) -> str | None:
        """Where its memory is; None where that isn't known."""
        found = self._places.get(_storage(tensor)._cdata)
        return found[1] if found else None

    def put(self, found: Any, place: str, *, again: bool = False) -> Any:
        """Say where the tensors of `found` are, those that it isn't known of or, with `again`, all."""
        for one in tree_leaves(found):
            if isinstance(one, Tensor) and one.layout is torch.strided and one.device.type != "meta":
                storage = _storage(one)
                address = storage._cdata
                if again or address not in self._places:
                    forget = weakref.ref(storage, lambda _, address=address: self._places.pop(address, None))
                    self._places[address] = forget, place
        return found


_cards: list[Card] = []
_storage = torch._C.TensorBase.untyped_storage
_device = torch._C.TensorBase.device


def forget() -> None:
    """Drop the notes so far, if there is a card."""
    for card in _cards:
        card.events.clear()


def _asked_by() -> str:
    frame = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if "/torch/" not in file and file != __file__ and "contextlib" not in file:
            return f"{Path(file).name}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


class AsAsked(TorchFunctionMode):
    """What Python code asks of torch: devices by name, and values for the host."""

    def __init__(self, card: Card) -> None:
        super().__init__()
        self.card = card

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, card, name = kwargs or {}, self.card, getattr(func, "__name__", "")
        own = args[0] if args and isinstance(args[0], Tensor) else None
        if own is not None and own.is_meta:
            return func(*args, **kwargs)
        place = card.place(own) if own is not None and own.layout is torch.strided else None
        if name in ("to", "cpu", "cuda", "type_as") and own is not None:
            return self._to(func, name, own, place, args, kwargs)
        if name == "pin_memory":
            return own
        if place == ON_CARD and name in ("numpy", "__array__"):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
        if place == ON_CARD and name == "tolist":
            card.note("wait", name)
        return self._made(func, name, place, args, kwargs)

    def _made(self, func, name, place, args, kwargs):
        device = kwargs.get("device")
        device = None if device is None else torch.device(device)
        if device is not None and device.type == "meta":
            return func(*args, **kwargs)
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, (Tensor, torch.Generator))]
        tensors = [one for one in given if isinstance(one, Tensor)]
        goal = place if device is None else ON_CARD if device.type == "cuda" else ON_HOST
        if goal == ON_CARD and len(tensors) < len(given):
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        if device is not None:
            kwargs = kwargs | {"device": CPU}
        if name in OF_PYTHON:
            here = self.card.place(args[0]) if isinstance(args[0], Tensor) and name != "new_tensor" else ON_HOST
            goal = goal or here or ON_HOST
            found = func(*args, **kwargs)
            if goal != here and here is not None:
                self.card.note("wait", f"{name}: copy to {goal}")
                found = found.clone() if isinstance(args[0], (Tensor, np.ndarray)) else found
            return self.card.put(found, goal, again=True)
        found = func(*args, **kwargs)
        if device is not None or not tensors:
            self.card.put(found, goal or ON_HOST, again=device is not None)
        return found

    def _to(self, func, name, own, place, args, kwargs):
        rest, kwargs = list(args[1:]), dict(kwargs)
        device = CARD if name == "cuda" else CPU if name == "cpu" else kwargs.get("device")
        name, func = ("to", Tensor.to) if name == "type_as" else (name, func)
        if name == "to" and rest and isinstance(rest[0], Tensor):
            device, rest[0] = _found_device(rest[0]), rest[0].dtype
        elif name == "to" and rest and isinstance(rest[0], (str, torch.device)):
            device = torch.device(rest[0])
            rest[0] = CPU
        if device is not None and torch.device(device).type == "meta":
            return func(*args, **kwargs)
        if kwargs.get("device") is not None:
            kwargs["device"] = CPU
        if name != "to":
            later, rest, kwargs, func = bool(kwargs.get("non_blocking", rest)), [], {}, Tensor.to
            rest = [CPU]
        else:
            later = kwargs.get("non_blocking", False) or (len(rest) > 2 and rest[2])
        goal = place if device is None else ON_CARD if torch.device(device).type == "cuda" else ON_HOST
        if goal == place or (goal == ON_HOST and place is None):
            return func(own, *rest, **kwargs)
        self.card.note("send" if goal == ON_CARD and later else "wait", f"copy to {goal}")
        found = func(own, *rest, **kwargs)
        found = found.clone() if _storage(found)._cdata == _storage(own)._cdata else found
        return self.card.put(found, goal, again=True)


class AsDone(TorchDispatchMode):
    """What is done with tensors: the operands' places, and the result's."""

    def __init__(self, card: Card) -> None:
        super().__init__()
        self.card = card

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, card = kwargs or {}, self.card
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        if any(one.is_meta or one.layout is not torch.strided for one in tensors):
            return func(*args, **kwargs)
        places = [card.place(one) for one in tensors]
        device = kwargs.get("device")
        if device is not None and device.type == "cuda":  # asked for within another mode, which AsAsked doesn't see
            if places[:1] == [ON_HOST]:
                card.note("send" if kwargs.get("non_blocking") else "wait", "copy to card")
            return card.put(func(*args, **kwargs | {"device": CPU}), ON_CARD, again=True)
        if ON_CARD in places:
            self._check(func, args, tensors, places)
            self._notice(func, args, kwargs)
        found = card.graph.did(func, args, kwargs) if card.graph else func(*args, **kwargs)
        if ON_CARD in places:
            card.put(found, ON_CARD)
        elif ON_HOST in places:
            card.put(found, ON_HOST)
        return found

    def _check(self, func, args, tensors, places) -> None:
        """RuntimeError where CUDA would raise."""
        if func is aten.copy_.default or ON_HOST not in places:
            return
        there = [one for one, place in zip(tensors, places, strict=True) if place == ON_HOST]
        if func.overloadpacket in INDEXING and places[0] == ON_CARD:
            there = [one for one in there if not any(one is index for index in args[1])]  # they are moved to the card
        changed = func._schema.is_mutable and places[0] == ON_HOST
        if changed or any(one.dim() for one in there):
            raise RuntimeError(
                f"Expected all tensors to be on the same device, found cuda:0 and cpu! ({func}: {places})"
            )

    def _notice(self, func, args, kwargs) -> None:
        """Note what waits for the card or sends something to it."""
        packet, place = func.overloadpacket, self.card.place
        if func is aten.copy_.default:
            to, of = place(args[0]), place(args[1])
            later = len(args) > 2 and args[2]
            if ON_HOST in (to, of):
                self.card.note("send" if to == ON_CARD and later else "wait", "copy_")
        elif packet in READS or (packet is aten.repeat_interleave and kwargs.get("output_size") is None):
            self.card.note("wait", str(packet))
        elif packet in INDEXING:
            indices = [one for one in args[1] if one is not None]
            masked = any(one.dtype in (torch.bool, torch.uint8) for one in indices)
            filled = len(args) > 2 and args[2].numel() == 1
            if (masked and not filled) or any(place(one) == ON_HOST for one in indices):
                self.card.note("wait", f"{packet} by {'a mask' if masked else 'indices of the host'}")


def _found_device(tensor: Tensor) -> torch.device:
    """What `Tensor.device` says while there is a card."""
    with torch._C.DisableTorchFunction():
        if tensor.layout is torch.strided and not tensor.is_meta and _cards[-1].place(tensor) == ON_CARD:
            return CARD
        return _device.__get__(tensor)


class Stream:
    """A stream; all of them are one here."""

    def __init__(self, device=None) -> None:
        pass

    def wait_stream(self, other: Stream) -> None:
        pass

    def synchronize(self) -> None:
        _cards[-1].note("wait", "synchronize")

    def is_capturing(self) -> bool:
        return _cards[-1].graph is not None


@contextlib.contextmanager
def _capture(graph: Graph, **options) -> Iterator[None]:
    """As torch.cuda.graph: after an error within, its end raises another one."""
    card = _cards[-1]
    card.graph, graph.numbers = graph, torch.get_rng_state()
    try:
        yield
    finally:
        card.graph = None
        graph.take_back()
        if graph.broken:
            raise torch.AcceleratorError("CUDA error: operation failed due to a previous error during capture")


def _parsed(parse):
    """What nn.Module.to asks of its arguments."""

    def run(*args, **kwargs):
        found = parse(*args, **kwargs)
        like = args[0] if args else kwargs.get("tensor")
        return (_found_device(like), *found[1:]) if isinstance(like, Tensor) else found

    return run


@contextlib.contextmanager
def a_card(monkeypatch) -> Iterator[Card]:
    """Context in which this machine has a card."""
    with monkeypatch.context() as patched:
        card = Card()
        _put_in(card, patched)
        _cards.append(card)
        try:
            with AsAsked(card), AsDone(card):
                yield card
        finally:
            _cards.pop()


def _put_in(card: Card, patched) -> None:
    """Replace what asks CUDA for the device."""
    cuda, main = torch.cuda, Stream()

    def waiting(*args, **kwargs) -> None:
        card.note("wait", "synchronize")

    class Timed:
        def __init__(self, enable_timing: bool = False) -> None:
            self.timing = enable_timing

        def record(self, stream=None) -> None:
            pass

        def synchronize(self) -> None:
            card.note("wait", "event")

        def elapsed_time(self, other) -> float:
            assert self.timing
            return 1.0

    standins: dict[str, Any] = {
        "_lazy_init": lambda: None, "is_available": lambda: True, "is_initialized": lambda: True,
        "is_bf16_supported": lambda *a, **k: True, "device_count": lambda: 1, "current_device": lambda: 0,
        "get_device_name": lambda device=None: "a card of this test",
        "get_device_capability": lambda device=None: (9, 0), "mem_get_info": lambda device=None: (1 << 36, 1 << 37),
        "memory_allocated": lambda device=None: 0, "max_memory_allocated": lambda device=None: 0,
        "max_memory_reserved": lambda device=None: 0, "reset_peak_memory_stats": lambda device=None: None,
        "default_generators": [Numbers()],
        "synchronize": waiting, "empty_cache": lambda: None, "set_device": lambda device: None,
        "get_rng_state": lambda device=None: torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": lambda state, device=None: None, "manual_seed_all": lambda seed: None,
        "Stream": Stream, "current_stream": lambda device=None: main, "stream": lambda s: contextlib.nullcontext(),
        "Event": Timed, "CUDAGraph": Graph, "graph": _capture,
        "set_sync_debug_mode": lambda mode: setattr(card, "debug", {"warn": 1}.get(mode, mode)),
        "get_sync_debug_mode": lambda: card.debug, "is_current_stream_capturing": lambda: card.graph is not None,
    }  # fmt: skip
    for name, value in standins.items():
        patched.setattr(cuda, name, value)
    patched.setattr(torch._C, "_cuda_setMemoryFraction", lambda share, index: None, raising=False)
    patched.setattr(torch._C._nn, "_parse_to", _parsed(torch._C._nn._parse_to))
    patched.setattr(torch.backends.cudnn, "is_acceptable", lambda tensor: False)
    patched.setattr(torch.accelerator, "current_stream", lambda device=None: main)
    began, grouped = torch.autocast.__init__, torch.optim.Optimizer._group_tensors_by_device_and_dtype

    def by_device(*args, **kwargs):
        return {((CARD if key[0] is not None else None), key[1]): value
                for key, value in grouped(*args, **kwargs).items()}  # fmt: skip

    def on_cpu(self, kind, *args, **kwargs) -> None:
        began(self, "cpu", *args, **kwargs)

    patched.setattr(torch.autocast, "__init__", on_cpu)
    patched.setattr(torch.optim.Optimizer, "_group_tensors_by_device_and_dtype", staticmethod(by_device))
    patched.setattr(torch.nn.utils.clip_grad, "_group_tensors_by_device_and_dtype", by_device)
    patches.remember()  # what is torch's own, before some of it is replaced
    patched.setattr(Tensor, "record_stream", lambda self, stream: None)
    patched.setattr(Tensor, "device", property(_found_device), raising=False)
    patched.setattr(Tensor, "is_cuda", property(lambda self: _found_device(self) == CARD), raising=False)
