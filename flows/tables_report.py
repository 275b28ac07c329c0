"""The tables as text: our number, its interval, and the published one beside it; what is behind each at the end."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flows.tables_config import TablesConfig
from flows.tables_plan import TablesPlan, mode_of
from flows.tables_published import TABLES, Column, Row, Table

RESULT = "result.json"
_Results = Mapping[Path, dict[str, Any] | None]
_Failures = Mapping[Path, str]


def write_tables(cfg: TablesConfig, plan: TablesPlan, failures: _Failures) -> Path:
    """Write ``tables.md`` from the finished runs and return its path; cells that failed say so."""
    results = {folder: _result(folder) for folder in dict.fromkeys(plan.folders.values())}
    parts = [
        "# The paper's tables, from runs",
        "",
        "Each cell: ours (95 % interval over people or videos), and the published number in square brackets. "
        "Accuracies in percent.",
    ]
    for name in cfg.tables:
        parts += ["", f"## {TABLES[name].title}", "", *_table(TABLES[name], cfg, plan, results, failures)]
    parts += ["", "## Behind the numbers", "", *_sources(plan, results)]
    notes = dict.fromkeys(note for result in results.values() if result for note in result["notes"])
    parts += ["", *(f"- {note}" for note in notes)]
    path = Path(cfg.work) / "tables.md"
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text("\n".join(parts) + "\n", encoding="utf-8")
    temporary.replace(path)
    return path


def _table(
    table: Table,
    cfg: TablesConfig,
    plan: TablesPlan,
    results: _Results,
    failures: _Failures,
) -> list[str]:
    lines = [f"| | {' | '.join(c.head for c in table.columns)} |", f"|---|{'---|' * len(table.columns)}"]
    for row in table.rows:
        cells = []
        for column, published in zip(table.columns, row.published, strict=True):
            ours = _cell(row, column, cfg, plan, results, failures)
            cells.append(f"{ours} [{_number(published, column.percent, scaled=True)}]")
        lines.append(f"| {row.label} | {' | '.join(cells)} |")
    return lines


def _cell(row: Row, column: Column, cfg: TablesConfig, plan: TablesPlan, results: _Results, failures: _Failures) -> str:
    """Return our number with its interval or spread, or why there is none."""
    tasks = [column.task, *([column.second] if column.second else [])]
    folders = [plan.folders[row.recipe, task] for task in tasks if row.recipe and (row.recipe, task) in plan.folders]
    if len(folders) < len(tasks):
        return "–"
    found = []
    for folder in folders:
        if (result := results[folder]) is None:
            return f"failed: {failures[folder].replace('|', '¦')}" if folder in failures else "not run"
        found.append(_figure(row, column, cfg, result))
    whole = [figure for figure in found if figure is not None]
    if len(whole) < len(found):
        return "–"
    value = _number(sum(figure.value for figure in whole) / len(whole), column.percent)
    return f"{value}{whole[0].spread if len(whole) == 1 else ''} {whole[0].mode}"


class _Figure(NamedTuple):
    """A number, what is printed of its spread, and how it was adapted."""

    value: float
    spread: str
    mode: str


def _figure(row: Row, column: Column, cfg: TablesConfig, result: dict[str, Any]) -> _Figure | None:
    mode = mode_of(row, column, cfg.adapt.finetune.enabled)
    if row.fraction < 1:
        few = [r for r in result["few_shot"] if r["fraction"] == row.fraction]
        best = [r for r in few if r["mode"] == mode] or few
        if not best or column.measure not in best[0]["measures"]:
            return None
        mean, spread = best[0]["measures"][column.measure]
        return _Figure(mean, f" ± {_number(spread, column.percent)}", best[0]["mode"])
    found = next((r for r in result["rows"] if r["mode"] == mode), None)
    if found is None or column.measure not in found["measures"]:
        return None
    figure = found["measures"][column.measure]
    if figure["low"] is None:
        return _Figure(figure["value"], "", mode)
    interval = f" ({_number(figure['low'], column.percent)}–{_number(figure['high'], column.percent)})"
    return _Figure(figure["value"], interval, mode)


def _sources(plan: TablesPlan, results: _Results) -> list[str]:
    lines = ["| row | task | configuration | dataset, version | weights | run |", "|---|---|---|---|---|---|"]
    for (recipe, task), folder in plan.folders.items():
        if (result := results[folder]) is None:
            continue
        name: str = recipe.backbone
        if name == "marlin":
            name = f"{recipe.size}, {recipe.mask}{', adversarial' if recipe.adversarial else ''}"
        weights = result["weights_sha256"][:12] or "random"
        where = f"{result['dataset']}, {result['version']}"
        lines.append(f"| {name} | {task} | `{result['config_digest'][:12]}` | {where} | `{weights}` | {folder.name} |")
    return lines


def _number(value: float | None, percent: bool, *, scaled: bool = False) -> str:
    """Published accuracies are in percent already (``scaled``)."""
    if value is None:
        return "–"
    return f"{value if scaled else value * 100:.2f}" if percent else f"{value:.4f}"


def _result(folder: Path) -> dict[str, Any] | None:
    try:
        tree: dict[str, Any] = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return tree
