"""Rules of this repository that no linter knows."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.config import EndToEndConfig
from infra.config import BaseConfig, load_config

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("infra", "pipeline", "model", "flows")
SPEAKS_TO_PEOPLE = ("flows/cli.py", "flows/cli_dataset.py", "flows/cli_platform.py", "flows/cli_registry.py")
RECIPES: dict[str, type[BaseConfig]] = {"demo.yaml": EndToEndConfig}
"""Which config reads which file of infra/configs."""
SOURCES = sorted(path.relative_to(ROOT).as_posix() for name in PACKAGES for path in (ROOT / name).rglob("*.py"))

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@pytest.mark.parametrize("path", sorted((ROOT / "infra" / "configs").rglob("*.yaml")), ids=lambda path: path.name)
def test_every_recipe_loads_as_its_config(path: Path) -> None:
    """A setting that was renamed in code and not in the recipe would only fail in front of a newcomer."""
    assert path.name in RECIPES, f"say in RECIPES which config reads {path.name}"
    load_config(RECIPES[path.name], path)


@pytest.mark.parametrize("source", [source for source in SOURCES if source not in SPEAKS_TO_PEOPLE])
def test_library_code_does_not_print(source: str) -> None:
    """Ranks and Ray workers that print interleave with the command's own output, which scripts read."""
    calls = (node for node in ast.walk(_tree(source)) if isinstance(node, ast.Call))
    lines = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    assert not lines, f"{source} prints at lines {lines}; log, show progress or return it"


@pytest.mark.parametrize("source", SOURCES)
def test_everything_public_has_a_docstring(source: str) -> None:
    """A public name without a contract is guessed at."""
    tree = _tree(source)
    assert ast.get_docstring(tree), f"{source} does not say what it is for"
    silent = [f"{node.name} (line {node.lineno})" for node in _public(tree) if not ast.get_docstring(node)]
    assert not silent, f"{source}: no docstring at {', '.join(silent)}"


def _tree(source: str) -> ast.Module:
    return ast.parse((ROOT / source).read_text(encoding="utf-8"))


def _public(node: ast.Module | ast.ClassDef) -> Iterator[Definition]:
    """Public functions and classes of a module, and public members of its public classes; no inner functions."""
    for child in node.body:
        if isinstance(child, Definition) and not child.name.startswith("_"):
            yield child
            if isinstance(child, ast.ClassDef):
                yield from _public(child)
