"""What a file that is given as weights holds, by its first bytes: two kinds are read, all others have a message."""

from __future__ import annotations

import codecs
import json
import re
import stat
import struct
import zipfile
from pathlib import Path
from typing import Literal

from raybench.errors import UserError

Kind = Literal["safetensors", "zip", "pickle"]

HEAD = 4096  # bytes that are looked at
SAVE = "save model.state_dict() with torch.save or safetensors"
MOST_INFLATED = 16  # a zip whose members unpack to more than this many times its own size is no file of weights
SMALL_ZIP = 1 << 20  # bytes that any zip may unpack to
WEIGHT_ENDINGS = {".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".th", ".tar"}

# First bytes -> what it is and what to do.
OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs.github.com", "a pointer of git-lfs, not the file itself: run `git lfs pull`"),
    (b"version https://hawser.github.com", "a pointer of git-lfs, not the file itself: run `git lfs pull`"),
    (b"\x89HDF\r\n\x1a\n", f"an HDF5 file, as Keras writes it; expected weights of torch: {SAVE}"),
    (b"\x93NUMPY", f"an array of NumPy; expected a state dict: {SAVE}"),
    (b"\x1f\x8b", "a gzip archive: unpack it and give the file inside"),
    (b"BZh", "a bzip2 archive: unpack it and give the file inside"),
    (b"\xfd7zXZ\x00", "an xz archive: unpack it and give the file inside"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive: unpack it and give the file inside"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-zip archive: unpack it and give the file inside"),
    (b"Rar!", "a RAR archive: unpack it and give the file inside"),
    (b"GGUF", f"a GGUF file of a language model; expected weights of torch: {SAVE}"),
    (b"ftrt", f"an engine of TensorRT; expected weights of torch: {SAVE}"),
    (b"%PDF", "a PDF document; expected weights"),
    (b"\x89PNG", "a picture; expected weights"),
    (b"\xff\xd8\xff", "a picture; expected weights"),
    (b"\x7fELF", "a program; expected weights"),
)  # fmt: skip


def kind_of(path: Path) -> Kind:
    """How to read the weights in `path`, from its content; its name doesn't count.

    Raises:
        UserError: it isn't there, isn't readable, or is something else, in one line with what to do.
    """
    head, size = _head(path)
    if not size:
        raise UserError(f"{path}: is empty (0 bytes): download or copy it again")
    if head.startswith(b"PK\x03\x04"):
        _check_zip(path, size)
        return "zip"
    if head.startswith(b"PK\x05\x06"):
        raise UserError(f"{path}: is an empty zip archive; expected weights: {SAVE}")
    what = _other(head)
    if what is not None:
        raise UserError(f"{path}: is {what}")
    return "safetensors" if _is_safetensors(head) else "pickle"


def _head(path: Path) -> tuple[bytes, int]:
    """(the first bytes of the file, its size); UserError when it can't be opened."""
    try:
        state = path.stat()
        if stat.S_ISDIR(state.st_mode):
            raise UserError(f"{path}: is a folder; expected a file of weights.{_inside(path)}")
        if not stat.S_ISREG(state.st_mode):
            raise UserError(f"{path}: is not a regular file; expected a file of weights")
        with path.open("rb") as file:
            return file.read(HEAD), state.st_size
    except FileNotFoundError:
        if path.is_symlink():
            raise UserError(f"{path}: is a link to {path.readlink()}, which isn't there") from None
        raise UserError(f"weights: found no file {path}") from None
    except PermissionError:
        raise UserError(f"{path}: can't be read: no permission (chmod u+r)") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: can't be read: {getattr(error, 'strerror', None) or error}") from None


def _inside(folder: Path) -> str:
    """A hint at the files of weights in `folder`."""
    try:
        names = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in WEIGHT_ENDINGS)
    except OSError:
        return ""
    return f" It holds {', '.join(names[:3])}" if names else ""


def _other(head: bytes) -> str | None:
    """What the file is if it certainly is no file of weights; None if it may be one."""
    found = next((what for start, what in OTHERS if head.startswith(start)), None)
    if found is not None:
        return found
    if head[4:8] in (b"TFL3", b"ftyp"):
        return f"a file of {'TensorFlow Lite' if head[4:8] == b'TFL3' else 'video'}; expected weights of torch: {SAVE}"
    if head[257:262] == b"ustar":
        return (
            "a tar archive, perhaps of torch before 0.1.10: unpack it, or load it with that version and "
            "save its state_dict() again"
        )
    if head[:1] == b"\x08" and head[2:3] in (b"\x12", b"\x1a", b":", b"B"):  # ir_version, then the producer or graph
        return f"an ONNX model, which has no names of layers to load: {SAVE}"
    return _text(head)


def _text(head: bytes) -> str | None:
    """What a file of text is; None for one that is binary."""
    encoding = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head)  # a letter may be cut at the end
    except UnicodeDecodeError:
        return None
    if any(not (one.isprintable() or one in "\t\r\n\x0c") for one in text):
        return None
    start = text.strip()[:200].lower()
    if start.startswith(("<!doctype", "<html", "<?xml", "<head", "<error", "<!--")):
        return "a web page (HTML or XML), not weights: the download failed or needs a log-in; fetch the file itself"
    link = re.search(r"https?://\S{1,200}", text)
    if link:
        return f"text with the link {link[0][:80]}, not weights: download the file that it points to"
    if start.startswith("{") and '"weight_map"' in text:
        parts = list(dict.fromkeys(re.findall(r'"[^"\s]+":\s*"([^"\s]{1,80})"', text.partition('"weight_map"')[2])))
        named = f" ({', '.join(parts[:2])}, ...)" if parts else ""
        return f"the index of weights in several files{named}, not weights: load them where they are from, and {SAVE}"
    if start.startswith(("{", "[")):
        return f"text (JSON), not weights: give the file of weights itself, or {SAVE}"
    return f"text that begins with {text.strip()[:30]!r}, not weights: {SAVE}"


def _is_safetensors(head: bytes) -> bool:
    """Whether the file begins with the length of a header and JSON, as safetensors do."""
    if len(head) < 10 or head[8:9] != b"{":
        return False
    (length,) = struct.unpack("<Q", head[:8])
    if length + 8 <= len(head):
        try:
            return isinstance(json.loads(head[8 : 8 + length]), dict)
        except (ValueError, RecursionError):
            return head[9:10] in (b'"', b"}")
    return head[9:10] in (b'"', b"}", b" ")


def _check_zip(path: Path, size: int) -> None:
    """UserError for a zip that is damaged, unpacks to far more than its size, or is not what torch.save writes.

    torch.load doesn't look at the checksums.
    """
    try:
        with zipfile.ZipFile(path) as file:
            members = file.infolist()
            unpacked = sum(member.file_size for member in members)
            names = [member.filename for member in members]
            if unpacked > max(MOST_INFLATED * size, SMALL_ZIP):
                raise UserError(
                    f"{path}: is a zip of {size:,} bytes that unpacks to {unpacked:,}; expected what torch.save writes"
                )
            broken = file.testzip()
    except UserError:
        raise
    except Exception as error:  # whatever zipfile and zlib raise for bytes that are no archive
        raise UserError(
            f"{path}: damaged: {plain(str(error) or type(error).__name__)}; download or copy it again"
        ) from error
    if broken:
        raise UserError(
            f"{path}: damaged: {plain(broken)} in it has another content than its checksum (CRC-32) is of; "
            "download or copy it again"
        )
    _check_members(path, names)


def _check_members(path: Path, names: list[str]) -> None:
    """UserError when a zip with members `names` is not one of torch.save's."""
    if any(name.endswith("constants.pkl") or "/code/" in name for name in names):
        raise UserError(
            f"{path}: is a TorchScript program, which is code: load it with torch.jit.load and save its state_dict()"
        )
    if any(name.endswith(("models/model.json", "serialized_exported_program.json")) for name in names):
        raise UserError(f"{path}: is a program of torch.export: load it with torch.export.load and save its state_dict")
    if any(name.endswith("data.pkl") for name in names):
        return
    if names and all(name.endswith(".npy") for name in names):
        raise UserError(f"{path}: is an archive of NumPy arrays; expected a state dict: {SAVE}")
    if any(name.endswith(".h5") for name in names):
        raise UserError(f"{path}: is a model of Keras; expected weights of torch: {SAVE}")
    inside = next((name for name in names if Path(name).suffix.lower() in WEIGHT_ENDINGS), None)
    hint = f"unpack it and give {plain(inside)}" if inside else f"it holds {plain(', '.join(names[:3]) or 'nothing')}"
    raise UserError(f"{path}: is a zip archive, but not of torch.save: {hint}")


def plain(text: str, most: int = 120) -> str:
    """The first line of `text`, printable, at most `most` characters: what a file says may hold anything."""
    line = next(iter(text.strip().splitlines()), "")
    shown = "".join(one if one.isprintable() else "?" for one in line)
    return shown if len(shown) <= most else shown[: most - 3] + "..."
