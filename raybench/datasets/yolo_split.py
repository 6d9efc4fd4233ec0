"""One split of YOLO's layout: images in folders or in a text file that lists them, and where their labels are."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from pathlib import Path

from raybench.datasets.boxes import Collector
from raybench.datasets.image_files import huge_line, is_image, look_at_all
from raybench.datasets.label_cache import Labelled
from raybench.datasets.tree import counted_by_ending, files_below, is_file
from raybench.datasets.yolo_labels import boxes_of
from raybench.datasets.yolo_lists import labels_of, lines_of, paths_of
from raybench.errors import UserError


class YoloSplit:
    """Images of folders and of lists. Labels of `.../images/NAME.jpg` are in `.../labels/NAME.txt`.

    Without a folder `images` on the way, they lie beside the images.
    """

    def __init__(
        self,
        places: Sequence[Path],
        names: tuple[str, ...],
        without: Collection[Path] = (),
        bases: Sequence[Path] = (),
    ) -> None:
        """Find the places; UserError where there are no labels.

        Args:
            places: folders of images, and `.txt` files that list them.
            names: of the classes.
            without: folders of other splits, which may lie below these.
            bases: folders that relative lines of a list may start from, besides the list's own.
        """
        self.names, self._places, self._bases = names, tuple(places), tuple(bases)
        self._folders = [place for place in places if place.is_dir()]
        self._labels = {folder: labels_of(folder) for folder in self._folders}
        self._lists = [place for place in places if place not in self._folders]
        self._without = [other for other in without if other not in self._folders]
        self._missing: Counter[str] = Counter()
        self.folder = self._folders[0] if len(places) == len(self._folders) == 1 else self._common()
        self._check()

    @cached_property
    def _there(self) -> list[Path]:
        """Every file in the folders, and every image of the lists; each once, sorted."""
        found = [file for folder in self._folders for file in files_below(folder, self._without)]
        listed = [image for file in self._lists for image in self._listed(file)]
        if twice := len(found) + len(listed) - len({*found, *listed}):
            self._missing["images named twice, taken once"] += twice
        return sorted({*found, *listed})

    @cached_property
    def images(self) -> list[Path]:
        """The image files."""
        return [file for file in self._there if is_image(file)]

    @cached_property
    def _texts(self) -> dict[Path, Path]:
        """The text file with the boxes of each image, there or not."""
        return {image: self._text_of(image) for image in self.images}

    @property
    def files(self) -> Iterable[Path]:
        """The files whose names and sizes the labels depend on."""
        return self._there

    @property
    def sources(self) -> tuple[Path, ...]:
        """The files whose content the labels depend on."""
        below = self._below_labels()
        beside = {text for text in self._texts.values() if text not in below and text.is_file()}
        return tuple(sorted({*self._lists, *below, *beside}))

    def read(self) -> Labelled:
        """Every image and box, checked; images without a text file have no boxes. Subfolders are read, too."""
        collector = Collector(", ".join(map(str, self._places)), len(self.names))
        looks = look_at_all(self.images, self.folder)
        collector.warn(huge_line(self.images, looks))
        for image, seen in zip(self.images, looks, strict=True):
            name = os.path.relpath(image, self.folder).replace(os.sep, "/")
            if seen.problem:
                collector.leave_out(name, seen.problem)
                continue
            collector.add_image(name, *seen.upright, seen.turn)
            self._add_boxes(collector, self._texts[image], seen.upright)
        texts = set(self._texts.values())
        collector.counts += self._missing
        others = [file for file in self._there if not is_image(file) and file not in texts]
        collector.note_unused(counted_by_ending(others))
        without = [labels for other in self._without if (labels := labels_of(other))]
        unused = [
            text for text in self._below_labels() - texts if not any(text.is_relative_to(labels) for labels in without)
        ]
        collector.note_unused({"text files without an image": len(unused)} if unused else {})
        return Labelled(self.names, collector.finish(self.folder))

    def _add_boxes(self, collector: Collector, text: Path, size: tuple[int, int]) -> None:
        """Add the boxes of `text` to the last image, of `size` (height, width)."""
        if not os.path.lexists(text):
            collector.counts["images without a text file, treated as without boxes"] += 1
            return
        tall, wide = size
        for box in boxes_of(text, len(self.names)):
            collector.counts["polygons of which the enclosing box was taken"] += box.polygon
            x1, y1, x2, y2 = box.corners
            corners = x1 * wide, y1 * tall, x2 * wide, y2 * tall
            collector.add_box(len(collector.images) - 1, corners, box.label, False)

    def _text_of(self, image: Path) -> Path:
        for folder, labels in self._labels.items():  # a folder `images` within the split's own is no sign
            if labels and image.is_relative_to(folder):
                return labels / image.relative_to(folder).with_suffix(".txt")
        beside = labels_of(image.parent) or image.parent
        return beside / image.with_suffix(".txt").name

    def _below_labels(self) -> set[Path]:
        """Every text file in the folders of labels."""
        roots = [labels for labels in self._labels.values() if labels]
        return {file for root in roots for file in files_below(root) if file.suffix == ".txt"}

    def _listed(self, file: Path) -> list[Path]:
        """The images that `file` names, line by line; those that aren't there are counted."""
        lines = lines_of(file)
        found = [self._found(line, file.parent) for line in lines]
        there = [image for image in found if image is not None]
        if lines and not there:
            looked = ", nor ".join(str(base / lines[0]) for base in (file.parent, *self._bases))
            raise UserError(f"{file}: none of the images that it lists is there; found no {looked}")
        if lost := len(lines) - len(there):
            self._missing[f"lines of {file.name} that name no image file"] += lost
        return there

    def _found(self, line: str, beside: Path) -> Path | None:
        there = (path for path in paths_of(line, (beside, *self._bases)) if is_image(path) and is_file(path))
        return next(there, None)

    def _common(self) -> Path:
        """The folder that holds all images."""
        parents = {str(image.parent) for image in self.images} | {str(folder) for folder in self._folders}
        if not parents:
            raise UserError(f"{', '.join(map(str, self._places))}: found no image; expected some")
        return Path(os.path.commonpath(parents))

    def _check(self) -> None:
        """UserError where there are no labels."""
        for folder, labels in self._labels.items():
            if labels is not None and not labels.is_dir():
                raise UserError(f"found no folder {labels} with the boxes of the images in {folder}")
        bare = [folder for folder, labels in self._labels.items() if labels is None]
        if bare and self.images and not any(text.is_file() for text in self._texts.values()):
            raise UserError(
                f"{bare[0]}: expected a folder below one called 'images', with labels below 'labels' beside it, "
                "or text files with the boxes beside the images"
            )
