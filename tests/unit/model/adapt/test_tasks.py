"""Labels become targets as the paper's protocols have it, and what cannot be meant is said."""

import math

import pytest

from infra.errors import ConfigError
from model.adapt.task import LabelError
from model.adapt.tasks import TASKS, action, appearance, deepfake, emotion, sentiment2, sentiment7


def test_real_and_fake():
    read = deepfake().read
    assert [read({"label": word}) for word in ("real", "fake")] == [(0.0,), (1.0,)]
    assert read({"manipulation": "none"}) is None
    with pytest.raises(LabelError, match="only real and fake"):
        read({"label": "maybe"})


def test_attributes_are_read_in_the_order_of_the_labels_and_leave_the_other_group_alone():
    labels = {"appearance.young": 1, "appearance.bald": 0, "action.smile": 1, "emotion": "happy"}
    task = appearance([{}, labels])
    assert (task.outputs, task.read(labels)) == (("young", "bald"), (1.0, 0.0))
    assert action([labels]).read(labels) == (1.0,)
    assert task.read({"emotion": "happy"}) is None
    with pytest.raises(LabelError, match="1 of the 2 labels"):
        task.read({"appearance.young": 1})
    with pytest.raises(LabelError, match="only 0 and 1"):
        task.read({**labels, "appearance.bald": 2})
    with pytest.raises(ConfigError, match="no clip bears a label 'appearance"):
        appearance([{}])


def test_an_emotion_is_there_above_zero():
    values = dict(zip(("happy", "sad", "anger", "surprise", "disgust", "fear"), (0, 0.33, 3, 0, 0, 1), strict=True))
    assert emotion().read(values) == (0, 1, 1, 0, 0, 1)
    assert emotion().read({"happy": 1}) is None
    with pytest.raises(LabelError, match="nan"):
        emotion().read({**values, "fear": math.nan})


@pytest.mark.parametrize(
    ("value", "seven", "two"),
    [(-3, 0, 0), (-2.5, 1, 0), (-0.4, 3, 0), (0, 3, 1), (0.5, 3, 1), (1.6, 5, 1), (3.2, 6, 1)],
)
def test_sentiment_is_rounded_and_clipped_and_zero_is_not_negative(value, seven, two):
    """Catches classes off by one, and the "negative / positive" protocol where non-negative is meant."""
    assert sentiment7().read({"sentiment": value}) == (seven,)
    assert sentiment2().read({"sentiment": value}) == (two,)
    assert sentiment7().describe((float(seven),)) == ("-3", "-2", "-1", "0", "+1", "+2", "+3")[seven]


def test_every_task_is_known_by_its_name():
    assert tuple(TASKS) == ("deepfake", "appearance", "action", "emotion", "sentiment7", "sentiment2")
