"""Ultralytics imported with network, telemetry and settings writes disabled."""

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
    "YOLO_OFFLINE": "true",  # no network access at import, hence no telemetry
    "YOLO_AUTOINSTALL": "false",  # no pip runs
    "YOLO_VERBOSE": "false",
    "ULTRALYTICS_SAFE_LOAD": "1",
    "WORLD_SIZE": "1",  # of several processes, one would wait at import for the others, which may import it later
}
_settings: list[tempfile.TemporaryDirectory[str]] = []  # settings folder of ultralytics in this process


@contextmanager
def offline() -> Iterator[None]:
    """Context for importing ultralytics: its settings go to a temporary folder that is removed with this process.

    Global state that the library changes at import (`torch.save`, `Image.open`, environment variables, print options)
    is restored afterwards. UserError when it is not installed.
    """
    if not _settings and "ultralytics" not in sys.modules:
        _settings.append(tempfile.TemporaryDirectory(prefix="raybench-ultralytics-"))
    before, save, open_image = dict(os.environ), torch.save, Image.open
    tensors, arrays = vars(torch._tensor_str.PRINT_OPTS).copy(), np.get_printoptions()
    os.environ.update(WANTED, **({"YOLO_CONFIG_DIR": _settings[0].name} if _settings else {}))
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
