"""Augments and pads images with ultralytics' code, without its file scan, caches and shared state."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from raybench.datasets.boxes import BoxImages
from raybench.datasets.image_files import ignore_pillow
from raybench.errors import StageError
from raybench.models.offline import offline
from raybench.models.ultralytics import STRIDE, normalised
from raybench.tasks.detection_metrics import in_original
from raybench.tasks.detection_pixels import prepared_bgr
from raybench.tasks.training.seeding import seed_of

with offline():
    import cv2
    from ultralytics.cfg import get_cfg
    from ultralytics.data.augment import LetterBox
    from ultralytics.data.dataset import YOLODataset

Augment = dict[str, Any]  # ultralytics' hyperparameters: mosaic, hsv_h, scale, fliplr, ...


@dataclass(frozen=True)
class Failed:
    """An item that couldn't be made, with the reason: a loader's process passes no StageError on."""

    message: str


class _Guarded(Dataset):
    """The items of a dataset, or why one couldn't be made."""

    def __init__(self, items: PlainImages | TrainingImages) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Any:
        try:
            return self._items[index]
        except StageError as error:
            return Failed(str(error))


class TrainingImages(YOLODataset):
    """Square images with ultralytics' augmentation, which depends on (seed, epoch, image) alone."""

    def __init__(
        self, images: BoxImages, names: Sequence[str], size: int, augment: Augment, *, stretched: bool = False
    ) -> None:
        """`stretched`: change the images' shape to squares before they are augmented."""
        self.images, self.key, self.stretched, self.side = images, (0, 0), stretched, size
        hyper = get_cfg(overrides=dict(augment))
        hyper.augmentations = []  # otherwise albumentations is used where it is installed
        data = {"names": dict(enumerate(names)), "channels": 3}
        super().__init__(img_path="", imgsz=size, data=data, augment=True, hyp=hyper, batch_size=1, stride=STRIDE)
        self.cache = "ram"  # mosaics draw from all images, not from this process's recent ones
        self.transforms = self.build_transforms(hyper)  # type: ignore[arg-type]  # get_cfg declares a base class

    def get_img_files(self, img_path: str | list[str]) -> list[str]:
        """Image numbers in place of paths; no folder is searched."""
        return [str(i) for i in range(len(self.images))]

    def get_labels(self) -> list[dict[str, Any]]:
        """One of ultralytics' label dicts for each image; crowds are left out."""
        return [
            {"im_file": str(i), "shape": tuple(map(int, self.images.sizes[i])), "cls": labels[:, None],
             "bboxes": boxes, "segments": [], "normalized": True, "bbox_format": "xywh"}
            for i in range(len(self.images))
            for labels, boxes in [truth_of(self.images, i)]
        ]  # fmt: skip

    def load_image(self, i: int, rect_mode: bool = True, resize_short: bool = False) -> tuple[Any, Any, Any]:
        """(BGR pixels with the long side `imgsz`, original height and width, height and width now)."""
        how = f"{'stretched' if self.stretched else 'long side'} {self.side}"
        pixels = prepared_bgr(self.images, i, how, self._resized)
        height, width = self.images.sizes[i].tolist()
        return pixels, (height, width), pixels.shape[:2]

    def _resized(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels (h, w, 3) with the long side `imgsz`, or as squares."""
        if self.stretched:
            return _stretched(pixels, self.side)
        height, width = pixels.shape[:2]
        ratio = self.imgsz / max(height, width)
        if ratio == 1:
            return pixels
        shape = min(math.ceil(width * ratio), self.imgsz), min(math.ceil(height * ratio), self.imgsz)
        found: np.ndarray = cv2.resize(pixels, shape, interpolation=cv2.INTER_LINEAR)
        return found

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Image `index` with its boxes, augmented by random numbers of seed and epoch."""
        with globally_seeded(*self.key, "augment", index):
            return super().__getitem__(index)

    def batches(self, order: Sequence[np.ndarray], key: tuple[int, int], workers: int) -> Iterator[dict[str, Any]]:
        """Collated batches in `order` (index arrays); `key` is (seed, epoch). Images (b, 3, s, s) are uint8 RGB."""
        ignore_pillow()
        self.key = key
        sampler = [batch.tolist() for batch in order]
        loader = DataLoader(_Guarded(self), batch_sampler=sampler, num_workers=workers, collate_fn=self.collated)
        yield from map(_checked, loader)

    def collated(self, items: list[Any]) -> Any:
        """One batch of `items`, or the first of them that couldn't be made."""
        failed = next((item for item in items if isinstance(item, Failed)), None)
        return failed or self.collate_fn(items)


class PlainImages(Dataset):
    """Whole images resized to `size` on the long side, and padded to a multiple of the network's stride."""

    def __init__(self, images: BoxImages, size: int, square: bool = False, *, stretched: bool = False) -> None:
        """`square`: pad to `size` x `size` instead, so that all images fit into one tensor; `stretched`: no padding."""
        self.images, self.size, self.stretched = images, size, stretched
        self.how = f"{'stretched' if stretched else 'square' if square else 'padded'} {size}"
        self.fit = LetterBox((size, size), auto=not square, stride=STRIDE)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[int, np.ndarray]:
        """(index, (3, h, w) uint8 RGB). StageError for a broken file."""
        fitted = prepared_bgr(self.images, index, self.how, self._fitted)
        return index, np.ascontiguousarray(fitted[:, :, ::-1].transpose(2, 0, 1))

    def _fitted(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels (h, w, 3) resized and padded, or as squares."""
        fitted = _stretched(pixels, self.size) if self.stretched else self.fit(image=pixels)
        assert isinstance(fitted, np.ndarray)  # without labels LetterBox returns the image
        return fitted

    def batches(self, most: int, workers: int) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Yield (indices, (b, 3, h, w) uint8) of images padded to the same shape, at most `most` at once."""
        ratio = self.images.sizes[:, 0] / self.images.sizes[:, 1]
        order = np.lexsort((np.arange(len(self)), ratio))
        waiting: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = {}
        ignore_pillow()
        loader = DataLoader(
            _Guarded(self), sampler=order.tolist(), batch_size=None, num_workers=workers, collate_fn=_unchanged
        )
        for index, pixels in map(_checked, loader):
            alike = waiting.setdefault(pixels.shape, [])
            alike.append((int(index), np.asarray(pixels)))
            if len(alike) == most:
                yield _stacked(waiting.pop(pixels.shape))
        yield from map(_stacked, waiting.values())

    def padded(self, index: int, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """(classes (n, 1), boxes (n, 4) xywh relative to the padded image of `shape` (h, w)) of one image."""
        labels, boxes = truth_of(self.images, index)
        if self.stretched:
            return labels[:, None], boxes
        height, width = self.images.sizes[index]
        ratio = min(self.size / height, self.size / width)
        inner = np.array([round(width * ratio), round(height * ratio)])  # as LetterBox rounds
        outer = np.array([shape[1], shape[0]])
        margin = np.round((outer - inner) / 2 - 0.1)
        boxes = boxes * np.tile(inner, 2) + np.concatenate([margin, [0, 0]])
        return labels[:, None], (boxes / np.tile(outer, 2)).astype(np.float32)

    def in_original(self, found: torch.Tensor, shape: tuple[int, int], index: int) -> torch.Tensor:
        """Boxes (n, 6) in the input of `shape` (h, w) as those in pixels of the original image `index`."""
        height, width = self.images.sizes[index].tolist()
        if not self.stretched:
            return in_original(found, shape, (height, width))
        scale = found.new_tensor([width / shape[1], height / shape[0]] * 2 + [1.0, 1.0])
        limits = found.new_tensor([width, height] * 2)
        found = found * scale
        return torch.cat((torch.minimum(found[:, :4].clamp(min=0), limits), found[:, 4:]), 1)


class Squares:
    """Square images as the network takes them, read slice by slice to save memory."""

    def __init__(self, images: PlainImages) -> None:
        """`images`: padded to squares."""
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, part: slice) -> torch.Tensor:
        """(images, 3, size, size) float32 in 0..1, on the CPU."""
        chosen = range(len(self))[part]
        return normalised(torch.stack([torch.from_numpy(self._images[i][1]) for i in chosen]))


def _stretched(pixels: np.ndarray, size: int) -> np.ndarray:
    """Pixels (h, w, 3) as (size, size, 3), without regard to their shape."""
    found: np.ndarray = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_LINEAR)
    return found


def _checked(item: Any) -> Any:
    """`item`; StageError for one that couldn't be made."""
    if isinstance(item, Failed):
        raise StageError("data", item.message)
    return item


def _unchanged(item: Any) -> Any:
    return item


def _stacked(items: list[tuple[int, np.ndarray]]) -> tuple[list[int], torch.Tensor]:
    return [index for index, _ in items], torch.from_numpy(np.stack([pixels for _, pixels in items]))


def truth_of(images: BoxImages, number: int) -> tuple[np.ndarray, np.ndarray]:
    """(classes (n,) float32, boxes (n, 4) float32 xywh relative to the image) of one image, crowds left out."""
    span = images.boxes_of(number)
    single = ~images.crowd[span]
    boxes, (height, width) = images.boxes[span][single], images.sizes[number]
    centred = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)
    shares = centred / [width, height, width, height]
    return images.classes[span][single].astype(np.float32), shares.astype(np.float32)


@contextmanager
def globally_seeded(*parts: int | str) -> Iterator[None]:
    """Seed Python's and numpy's global generators, which ultralytics uses, by `parts`; restore them afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    seed = seed_of(*parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def workers_for(device: torch.device) -> int:
    """Number of loader processes: none when training on the CPU, where they would compete with it."""
    return 0 if device.type == "cpu" else min(8, os.cpu_count() or 1)
