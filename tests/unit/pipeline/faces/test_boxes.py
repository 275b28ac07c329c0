import numpy as np
import pytest

from pipeline.faces.boxes import iou_matrix, non_maximum_suppression, reduced_size


def test_iou_of_equal_half_and_disjoint_boxes():
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [3, 3, 3, 3]], np.float32)
    assert iou_matrix(boxes[:1], boxes)[0] == pytest.approx([1, 1 / 3, 0, 0])
    assert iou_matrix(boxes[:0], boxes).shape == (0, 4)


def test_suppression_keeps_the_best_of_each_heap_and_orders_by_score():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60]], np.float32)
    assert non_maximum_suppression(boxes, np.array([0.6, 0.7, 0.9]), 0.3).tolist() == [2, 1]


def test_a_suppressed_box_suppresses_no_other():
    """B overlaps A and C, which do not overlap each other: with A best, B goes and C stays."""
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10]], np.float32)
    assert non_maximum_suppression(boxes, np.array([0.9, 0.8, 0.7]), 0.3).tolist() == [0, 2]


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(640, 360, (480, 288)), (360, 640, (288, 480)), (224, 224, (224, 224)), (100, 3, (128, 32)), (1, 1, (32, 32))],
)
def test_frames_are_reduced_to_multiples_of_32_and_never_enlarged_much(width, height, expected):
    assert reduced_size(width, height, 480) == expected
