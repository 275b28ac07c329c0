from __future__ import annotations

import pytest

from pipeline import recipe
from pipeline.config import ClipConfig, FacexlibFaces, IngestConfig, LimitConfig, SplitConfig, TrackConfig
from pipeline.recipe import recipe_difference, recipe_digest, recipe_settings

BASE = IngestConfig()


@pytest.mark.parametrize(
    "change",
    [
        {"track": TrackConfig(margin=1.4)},
        {"clip": ClipConfig(crf=21)},
        {"split": SplitConfig(val_fraction=0.2)},
        {"seed": 1},
        {"faces": FacexlibFaces()},
    ],
)
def test_settings_that_change_bytes_change_the_digest(change: dict) -> None:
    """Bug caught: two different outputs under the same key."""
    assert recipe_digest(BASE.model_copy(update=change)) != recipe_digest(BASE)


@pytest.mark.parametrize(
    "change",
    [
        {"workers": 3},
        {"shard_mb": 1},
        {"out": "elsewhere"},
        {"sources": ("a",)},
        {"source_licence": "MIT"},
        {"limits": LimitConfig(attempts=5, memory_mb=1024)},
    ],
)
def test_settings_that_change_no_bytes_do_not(change: dict) -> None:
    """Bug caught: a dataset refused because tonight's machine has more cores."""
    assert recipe_digest(BASE.model_copy(update=change)) == recipe_digest(BASE)


def test_where_weights_come_from_and_the_device_do_not_count_but_the_weights_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bug caught: a mirror that makes a new recipe; other weights under the same recipe."""
    base = IngestConfig(faces=FacexlibFaces())
    mirrored = IngestConfig(faces=FacexlibFaces(weights=("s3://mirror/weights",), device="cpu"))
    digest = recipe_digest(base)
    assert recipe_digest(mirrored) == digest
    others = [{"part": "retinaface", "sha256": "0" * 64, "licence": "", "source": ""}]
    monkeypatch.setattr(recipe, "backend_licences", lambda faces: others)
    assert recipe_digest(base) != digest


def test_the_codes_revision_is_part_of_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bug caught: an improved tracker that writes under the keys of the old one."""
    digest = recipe_digest(BASE)
    monkeypatch.setattr(recipe, "REVISION", recipe.REVISION + 1)
    assert recipe_digest(BASE) != digest


def test_a_difference_names_each_setting_with_both_values() -> None:
    """Bug caught: "settings differ" without saying which."""
    old = recipe_settings(BASE)
    new = recipe_settings(BASE.model_copy(update={"seed": 5, "track": TrackConfig(margin=1.4)}))
    assert recipe_difference(old, old) == []
    assert recipe_difference(old, new) == ["seed (0, now 5)", "track.margin (1.3, now 1.4)"]
    assert recipe_difference({}, {"a": 1}) == ["a (absent, now 1)"]
