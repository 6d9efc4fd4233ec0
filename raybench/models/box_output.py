"""How the output of an exported detector is laid out."""

from __future__ import annotations

from typing import NamedTuple

BOX = 4  # numbers that tell a box's place; its score, or its score of each class, follows


class BoxOutput(NamedTuple):
    """Where a detector's output has the numbers of one box, and whether it is a ranking.

    Attributes:
        axis: of the output, (images, boxes, numbers) or (images, numbers, boxes).
        ranked: the best boxes, best first, each as place, score and class; else all boxes with a score for each class.
    """

    axis: int
    ranked: bool
