"""Outputs of an exported network beside the network's own: what passes for equal, and what doesn't."""

from __future__ import annotations

import pytest
import torch

from raybench.models.box_output import BoxOutput
from raybench.pipeline.compared import TOLERANCE, difference

RANKING, EVERY = BoxOutput(axis=2, ranked=True), BoxOutput(axis=1, ranked=False)
# Two images with four boxes: place in pixels, score, class. Of the first, the second and third box score alike; of the
# second, the last does as one that was left out.
BOXES = torch.tensor([
    [[9.0, 9, 90, 90, 0.9, 1], [5, 5, 50, 50, 0.6, 0], [7, 8, 70, 80, 0.6, 1], [0, 0, 8, 8, 0.2, 1]],
    [[1.0, 2, 30, 40, 0.8, 0], [2, 2, 200, 20, 0.7, 1], [3, 3, 30, 30, 0.5, 1], [4, 4, 40, 40, 0.1, 0]],
])  # fmt: skip


def changed(image: int, box: int, column: int, number: float) -> torch.Tensor:
    boxes = BOXES.clone()
    boxes[image, box, column] = number
    return boxes


def test_numbers_are_compared_in_place() -> None:
    expected = [torch.tensor([[1.0, -4.0]]), torch.tensor([[100.0]])]
    assert difference(expected, expected) == 0
    assert difference(expected, [expected[0] + 1, expected[1] + 1]) == pytest.approx(0.25)
    assert not difference(expected, [expected[0], expected[1] * torch.nan]) <= TOLERANCE
    with pytest.raises(ValueError, match="shorter"):
        difference(expected, expected[:1])


def test_boxes_that_score_alike_may_change_their_order() -> None:
    swapped = BOXES.clone()
    swapped[0, [1, 2]] = BOXES[0, [2, 1]]
    assert difference([BOXES], [swapped]) > 0.1
    assert difference([BOXES], [swapped], RANKING) == 0
    other_class = BOXES.clone()  # one box with two classes that score alike: the class alone changes
    other_class[0, [1, 2], :4] = BOXES[0, 1, :4]
    swapped = other_class.clone()
    swapped[0, [1, 2]] = other_class[0, [2, 1]]
    assert difference([other_class], [swapped], RANKING) == 0


def test_at_the_end_of_a_ranking_one_of_two_that_score_alike_may_be_missing() -> None:
    other = BOXES.clone()
    other[1, 3] = torch.tensor([60.0, 61, 62, 63, 0.1, 1])
    assert difference([BOXES], [other], RANKING) == 0
    other[1, 3, 4] = 0.11
    assert difference([BOXES], [other], RANKING) > TOLERANCE


@pytest.mark.parametrize(
    "other",
    [
        changed(0, 1, 0, 6), changed(1, 1, 2, 201), changed(0, 0, 4, 0.901), changed(0, 1, 5, 1), changed(1, 0, 5, 1),
        changed(0, 2, 3, torch.nan), changed(1, 0, 4, torch.nan), BOXES[:, [1, 0, 2, 3]], BOXES[[1, 0]],
        torch.cat([BOXES[:, :1], BOXES[:, :1], BOXES[:, 2:]], 1), torch.zeros_like(BOXES),
    ],
    ids=["place", "wide place", "score", "class", "class of the first", "nan", "nan score", "order", "images", "twice",
         "zeros"],
)  # fmt: skip
def test_a_ranking_that_says_something_else_is_noticed(other) -> None:
    assert not difference([BOXES], [other], RANKING) <= TOLERANCE


def test_numbers_of_classes_do_not_hide_scores() -> None:
    many = BOXES.clone()
    many[:, :, 5] += 78
    wrong = many.clone()
    wrong[0, 0, 4] += 9e-3
    assert difference([many], [wrong], RANKING) == pytest.approx(0.01, rel=1e-3)


def test_places_in_pixels_do_not_hide_scores() -> None:
    every = BOXES.movedim(2, 1)  # place and a score for each class, box by box
    wrong = every.clone()
    wrong[0, 4, 0] += 0.02
    assert difference([every], [wrong]) <= TOLERANCE  # 0.02 of 200 pixels
    assert difference([every], [wrong], EVERY) == pytest.approx(0.02, rel=1e-4)
    low = every.clone()  # a detector that has hardly been trained
    low[:, 4:] = 1e-3
    wrong_low = low.clone()
    wrong_low[0, 4, 0] += 1e-7
    assert difference([low], [wrong_low], EVERY) == pytest.approx(1e-5, rel=1e-2)
    wrong_low[0, 4, 0] += 1e-5
    assert difference([low], [wrong_low], EVERY) > TOLERANCE
    wrong[0, 0, 0] += 20
    assert difference([every], [wrong], EVERY) == pytest.approx(0.1, rel=1e-4)


def test_detectors_say_how_their_output_is_laid_out() -> None:
    pytest.importorskip("ultralytics")
    from raybench.models.ultralytics import yolo

    model = yolo(2, 3, 64, config="yolov10", scale="n").eval().for_export()
    for ranked, expected in ((False, EVERY), (True, RANKING)):  # the branch that needs suppression, and the other
        model.head.end2end = ranked
        assert model.box_output == expected
        assert model(torch.zeros(1, 3, 64, 64)).shape[expected.axis] == 6  # a place; two scores, or score and class
