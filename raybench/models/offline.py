"""Ultralytics imported so that it stays at home: no download, no report, no settings written in people's folders."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image

from raybench.errors import UserError

WANTED = {
    "YOLO_OFFLINE": "true",  # no look at the network at import, and with that no usage reports
    "YOLO_AUTOINSTALL": "false",  # never runs pip
    "YOLO_VERBOSE": "false",
    "ULTRALYTICS_SAFE_LOAD": "1",
}
_homes: list[tempfile.TemporaryDirectory[str]] = []  # where this process's ultralytics keeps its settings


@contextmanager
def offline() -> Iterator[None]:
    """Import ultralytics inside: its settings go to a temporary folder that ends with this process.

    What the library changes for everybody at import (`torch.save`, `Image.open`, environment variables, printing) is as
    before outside. UserError when it is not installed.
    """
    if not _homes and "ultralytics" not in sys.modules:
        _homes.append(tempfile.TemporaryDirectory(prefix="raybench-ultralytics-"))
    before, save, open_image = dict(os.environ), torch.save, Image.open
    tensors, arrays = vars(torch._tensor_str.PRINT_OPTS).copy(), np.get_printoptions()
    os.environ.update(WANTED, **({"YOLO_CONFIG_DIR": _homes[0].name} if _homes else {}))
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("ultralytics", "cv2"):
            raise
        raise UserError(
            f"detection needs {error.name}, which is not installed; "
            "install raybench with its detection extra: raybench[detection]"
        ) from error
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)
        torch.save, Image.open = save, open_image
        vars(torch._tensor_str.PRINT_OPTS).update(tensors)
        np.set_printoptions(**arrays)
