"""Rules of this repository that no linter knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.config import EndToEndConfig
from infra.config import BaseConfig, load_config

ROOT = Path(__file__).resolve().parents[2]
RECIPES: dict[str, type[BaseConfig]] = {"demo.yaml": EndToEndConfig}
"""Which config reads which file of infra/configs."""


@pytest.mark.parametrize("path", sorted((ROOT / "infra" / "configs").rglob("*.yaml")), ids=lambda path: path.name)
def test_every_recipe_loads_as_its_config(path: Path) -> None:
    """A setting that was renamed in code and not in the recipe would only fail in front of a newcomer."""
    assert path.name in RECIPES, f"say in RECIPES which config reads {path.name}"
    load_config(RECIPES[path.name], path)
