"""Seeded damage to files of weights: cuts, flips, splices, changed zip members, odd pickles, huge declared sizes."""

import io
import pickletools
import random
import struct
import zipfile
from collections.abc import Callable, Iterator

import torch
from safetensors.torch import save as safetensors_bytes

Fuzz = Callable[[bytes, random.Random], bytes]
Change = Callable[[str, bytes], bytes | None]  # (name, content) of a zip's member


def originals(state: dict[str, torch.Tensor]) -> dict[str, bytes]:
    """The same weights in the formats that are read."""
    found = {"safetensors": safetensors_bytes(state)}
    for name, new, content in (
        ("zip", True, state),
        ("old", False, state),
        ("training", True, {"state_dict": state, "optimizer": {"state": {}}, "epoch": 3}),
    ):
        buffer = io.BytesIO()
        torch.save(content, buffer, _use_new_zipfile_serialization=new)
        found[name] = buffer.getvalue()
    return found


def cut(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def flip(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice([1, 4, 64])):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def flip_head(data: bytes, draw: random.Random) -> bytes:
    return flip(data[:200], draw) + data[200:]


def flip_pickles(data: bytes, draw: random.Random) -> bytes:
    return flip(data[:2000], draw) + data[2000:]


def splice(data: bytes, draw: random.Random) -> bytes:
    start, other, length = (draw.randrange(len(data)) for _ in range(3))
    return data[:start] + data[other : other + length] + data[start:]


def numbers(data: bytes, draw: random.Random) -> bytes:
    """Overwrite a few places with numbers at the ends of their range."""
    changed = bytearray(data)
    for _ in range(draw.randrange(1, 5)):
        value = draw.choice([2**63 - 1, 2**32 - 1, 2**31, 0, 2**40])
        place = draw.randrange(max(1, len(changed) - 8))
        changed[place : place + 8] = struct.pack("<Q", value)
    return bytes(changed)


def _rewritten(
    data: bytes, change: Callable[[str, bytes], bytes | None], compression: int = zipfile.ZIP_STORED
) -> bytes:
    """A zip with each member's content replaced; None leaves the member out. Checksums are right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", compression) as new:
        for name in old.namelist():
            content = change(name, old.read(name))
            if content is not None:
                new.writestr(name, content)
    return buffer.getvalue()


def pickled(data: bytes, draw: random.Random) -> bytes:
    """Change the pickle in a zip, byte by byte: odd opcodes, ends of ranges, cuts."""
    way = draw.choice([flip, cut, splice, opcodes, opcodes, opcodes])
    return _rewritten(data, lambda name, content: way(content, draw) if name.endswith("data.pkl") else content)


def opcodes(data: bytes, draw: random.Random) -> bytes:
    """Replace, double or drop whole opcodes of a pickle."""
    places = [place for _, _, place in pickletools.genops(data)]
    parts = [data[one:two] for one, two in zip(places, [*places[1:], len(data)], strict=True)]
    for _ in range(draw.choice([1, 2, 8])):
        place = draw.randrange(len(parts))
        odd = bytes([draw.randrange(256)]) + draw.randbytes(draw.choice([0, 1, 4]))
        huge = b"\x8a\x08" + struct.pack("<q", draw.choice([2**62, -1, 10**12]))  # LONG1
        parts[place : place + 1] = draw.choice([[], [parts[place]] * 2, [odd], [huge], [draw.choice(parts)]])
        parts = parts or [b"."]
    return b"".join(parts)


def members(data: bytes, draw: random.Random) -> bytes:
    """Drop, empty, shorten or lengthen members of a zip, or compress it."""
    chosen = draw.choice(zipfile.ZipFile(io.BytesIO(data)).namelist())
    ways = [None, b"", lambda c: c[: len(c) // 2], lambda c: c * 3, lambda c: flip(c, draw) if c else c]
    way = draw.choice(ways)

    def change(name: str, content: bytes) -> bytes | None:
        return content if name != chosen else way(content) if callable(way) else way

    return _rewritten(data, change, draw.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))


def header(data: bytes, draw: random.Random) -> bytes:
    """Change the JSON header of safetensors, with a right length."""
    (length,) = struct.unpack("<Q", data[:8])
    text = data[8 : 8 + length]
    old, new = draw.choice(
        [(b"F32", b"F99"), (b"F32", b"I64"), (b"[0,", b"[99999999999999,"), (b'"shape":[', b'"shape":[9999999999,'),
         (b"{", b"[" * 5000 + b"{"), (b'"dtype"', b'"\\u0000"'), (b"F32", b"BOOL"), (b"}", b""), (b"F32", b"F8_E4M3")]
    )  # fmt: skip
    text = text.replace(old, new, draw.choice([1, -1]))
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def noise(data: bytes, draw: random.Random) -> bytes:
    start = draw.choice([b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x04\x95", data[:8], data[:64]])
    return start + draw.randbytes(draw.randrange(300))


EVERY: dict[str, tuple[Fuzz, ...]] = {
    "safetensors": (cut, flip, flip_head, splice, numbers, header, header, header, noise),
    "zip": (cut, flip, splice, numbers, pickled, pickled, pickled, members, members, noise),
    "training": (flip, pickled, pickled, pickled, members),
    "old": (cut, flip, flip_head, flip_pickles, splice, numbers, noise),
}


def fuzzed(state: dict[str, torch.Tensor], rounds: int) -> Iterator[tuple[str, bytes]]:
    """(a name that reproduces it, the damaged file), `rounds` of each kind of damage."""
    for format_, data in originals(state).items():
        for kind, way in enumerate(EVERY[format_]):
            for number in range(rounds):
                name = f"{format_}-{kind}-{getattr(way, '__name__', '')}-{number}"
                yield name, way(data, random.Random(name))
