"""The tasks of the paper, read from the labels that ingestion leaves with every clip."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from infra.errors import ConfigError
from model.adapt.task import LabelError, Labels, Target, TaskSpec, number, presence

EMOTIONS = ("happy", "sad", "anger", "surprise", "disgust", "fear")
SENTIMENTS = tuple(range(-3, 4))


def deepfake(_: Iterable[Labels] = ()) -> TaskSpec:
    """Fake against real; FaceForensics++'s folders say which (the label ``label``)."""
    needs = "'label', real or fake, as FaceForensics++ gives it"
    return TaskSpec("deepfake", "binary", ("fake",), _real_or_fake, needs, negative="real")


def appearance(clips: Iterable[Labels]) -> TaskSpec:
    """CelebV-HQ's 40 attributes of appearance."""
    return _attributes("appearance", clips)


def action(clips: Iterable[Labels]) -> TaskSpec:
    """CelebV-HQ's 35 actions."""
    return _attributes("action", clips)


def emotion(_: Iterable[Labels] = ()) -> TaskSpec:
    """CMU-MOSEI's six emotions: present where the intensity, in [0, 3], is above 0."""

    def read(labels: Labels) -> Target | None:
        values = [number(labels, name) for name in EMOTIONS]
        return None if None in values else tuple(float(value > 0) for value in values if value is not None)

    return TaskSpec("emotion", "multilabel", EMOTIONS, read, "CMU-MOSEI's six intensities", balanced=False)


def sentiment7(_: Iterable[Labels] = ()) -> TaskSpec:
    """CMU-MOSEI's sentiment rounded to −3 … 3. Halves round to even, as numpy's and the usual scripts' do."""

    def read(labels: Labels) -> Target | None:
        value = number(labels, "sentiment")
        return None if value is None else (float(SENTIMENTS.index(max(-3, min(3, round(value))))),)

    names = tuple(f"{value:+d}" if value else "0" for value in SENTIMENTS)
    values = tuple(map(float, SENTIMENTS))
    return TaskSpec("sentiment7", "multiclass", names, read, _SENTIMENT, class_values=values, balanced=False)


def sentiment2(_: Iterable[Labels] = ()) -> TaskSpec:
    """CMU-MOSEI's sentiment: negative against non-negative, which is the positive class."""

    def read(labels: Labels) -> Target | None:
        value = number(labels, "sentiment")
        return None if value is None else (float(value >= 0),)

    return TaskSpec("sentiment2", "binary", ("non-negative",), read, _SENTIMENT, negative="negative")


_SENTIMENT = "CMU-MOSEI's 'sentiment'"
TASKS: dict[str, Callable[[Iterable[Labels]], TaskSpec]] = {
    build.__name__: build for build in (deepfake, appearance, action, emotion, sentiment7, sentiment2)
}
"""Task → its spec for a dataset's clips. ``custom`` is read from a csv (``model.adapt.custom``)."""


def _real_or_fake(labels: Labels) -> Target | None:
    word = labels.get("label")
    if word is None:
        return None
    if word not in ("real", "fake"):
        raise LabelError(f"label 'label' is {str(word)[:40]!r}, and only real and fake are known")
    return (float(word == "fake"),)


def _attributes(group: str, clips: Iterable[Labels]) -> TaskSpec:
    prefix = f"{group}."
    names = next((found for labels in clips if (found := [n for n in labels if n.startswith(prefix)])), None)
    if names is None:
        raise ConfigError(
            f"no clip bears a label '{prefix}…'; ingest CelebV-HQ with celebvhq_info.json beside it, or take task "
            "custom"
        )

    def read(labels: Labels) -> Target | None:
        values = [presence(labels, name) for name in names]
        if all(value is None for value in values):
            return None
        if None in values:
            raise LabelError(f"{values.count(None)} of the {len(values)} labels '{prefix}…' are missing")
        return tuple(value for value in values if value is not None)

    outputs = tuple(name.removeprefix(prefix) for name in names)
    return TaskSpec(group, "multilabel", outputs, read, f"CelebV-HQ's '{prefix}…'", balanced=False)
