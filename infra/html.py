"""One self-contained, escaped HTML page out of sections: text, facts, tables and pictures."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader


@dataclass(frozen=True)
class Paragraph:
    """One paragraph of plain text."""

    text: str
    kind: str = "paragraph"


@dataclass(frozen=True)
class Facts:
    """Name and value pairs."""

    pairs: Sequence[tuple[str, Any]]
    kind: str = "facts"


@dataclass(frozen=True)
class Table:
    """Rows under a head; numbers are set right by their look."""

    head: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""
    kind: str = "table"


@dataclass(frozen=True)
class Figure:
    """A PNG picture; ``width`` in CSS pixels at most, 0 takes its own."""

    png: bytes
    caption: str
    width: int = 0
    kind: str = "figure"

    @property
    def source(self) -> str:
        """The picture as a ``data:`` address."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class Funnel:
    """Bars of falling counts: (name, count, remark)."""

    steps: Sequence[tuple[str, int, str]]
    kind: str = "funnel"

    def share(self, count: int) -> float:
        """Width of a bar in percent; square root, so that small counts are seen beside large ones."""
        top = max((step[1] for step in self.steps), default=0)
        return 100 * (count / top) ** 0.5 if top else 0.0


Block = Paragraph | Facts | Table | Figure | Funnel


@dataclass(frozen=True)
class Section:
    """A titled part of the page."""

    title: str
    intro: str = ""
    blocks: Sequence[Block] = field(default_factory=tuple)

    @property
    def anchor(self) -> str:
        """The title as a fragment name."""
        return "".join(letter if letter.isalnum() else "-" for letter in self.title.lower())


def page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """Return the whole page; every text is escaped, no script, nothing is loaded from elsewhere."""
    environment = Environment(loader=PackageLoader("infra"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["cell"] = _cell
    return environment.get_template("page.html").render(title=title, subtitle=subtitle, sections=sections)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
