"""A split as a COCO instances dict: the inverse of `raybench.datasets.coco.read_instances`."""

from __future__ import annotations

from typing import Any

from raybench.datasets.boxes import BoxImages


def as_instances(images: BoxImages, names: tuple[str, ...]) -> dict[str, Any]:
    """A COCO instances dict with ids from 1."""
    records = [
        {"id": i + 1, "file_name": file, "height": int(images.sizes[i, 0]), "width": int(images.sizes[i, 1])}
        for i, file in enumerate(images.files)
    ]
    annotations: list[dict[str, Any]] = []
    for i in range(len(images)):
        span = images.boxes_of(i)
        for (x1, y1, x2, y2), label, crowd in zip(
            images.boxes[span].tolist(), images.classes[span].tolist(), images.crowd[span].tolist(), strict=True
        ):
            width, height = x2 - x1, y2 - y1
            annotations.append(
                {"id": len(annotations) + 1, "image_id": i + 1, "category_id": label + 1, "iscrowd": int(crowd),
                 "bbox": [x1, y1, width, height], "area": width * height}
            )  # fmt: skip
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(names)]
    return {"images": records, "annotations": annotations, "categories": categories}
