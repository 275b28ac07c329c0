"""One self-contained, escaped HTML page out of sections: text, facts, tables and pictures."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment


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
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["cell"] = _cell
    return environment.from_string(_TEMPLATE).render(title=title, subtitle=subtitle, sections=sections)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ title }}</title><style>
:root{--ink:#16202b;--soft:#5b6875;--line:#dde3e9;--paper:#fff;--ground:#f4f6f8;--accent:#0b6e99;--bar:#6fb1d0}
@media (prefers-color-scheme:dark){:root{--ink:#e8edf2;--soft:#9aa7b4;--line:#2b3641;--paper:#161d25;--ground:#0e141a;
--accent:#6cc0e5;--bar:#2b6f8f}}
*{box-sizing:border-box}body{margin:0;background:var(--ground);color:var(--ink);font:16px/1.55 system-ui,sans-serif}
header,main{max-width:1100px;margin:0 auto;padding:0 24px}header{padding-top:48px}
h1{font-size:2rem;margin:0;letter-spacing:-.02em}header p{color:var(--soft);margin:.3em 0 1.2em}
nav{display:flex;flex-wrap:wrap;gap:6px 18px;padding-bottom:8px}a{color:var(--accent);text-decoration:none}
section{background:var(--paper);border:1px solid var(--line);border-radius:10px;padding:24px 28px;margin:20px 0}
h2{margin:0 0 .3em;font-size:1.3rem}section>p{margin:.2em 0 1em;max-width:75ch;color:var(--soft)}
.scroll{overflow-x:auto;margin:1em 0}table{border-collapse:collapse;font-size:.92rem;min-width:50%}
th,td{text-align:left;padding:6px 14px 6px 0;border-bottom:1px solid var(--line);vertical-align:top;overflow-wrap:anywhere}
th{font-weight:600;color:var(--soft)}td{font-variant-numeric:tabular-nums}
caption,figcaption{text-align:left;color:var(--soft);font-size:.9rem;padding:4px 0}
figure{margin:1.2em 0}img{max-width:100%;border-radius:6px;display:block}
dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 22px;margin:1em 0;font-size:.95rem}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
.funnel{display:grid;grid-template-columns:max-content max-content 1fr;gap:8px 14px;align-items:center;margin:1em 0}
.funnel b{text-align:right;font-variant-numeric:tabular-nums}
.bar{background:var(--bar);height:22px;border-radius:4px;min-width:2px}.remark{color:var(--soft);font-size:.88rem}
footer{color:var(--soft);text-align:center;padding:12px 24px 40px;font-size:.88rem}
</style></head><body>
<header><h1>{{ title }}</h1><p>{{ subtitle }}</p>
<nav>{% for section in sections %}<a href="#{{ section.anchor }}">{{ section.title }}</a>{% endfor %}</nav></header>
<main>
{% for section in sections %}
<section id="{{ section.anchor }}"><h2>{{ section.title }}</h2>
{% if section.intro %}<p>{{ section.intro }}</p>{% endif %}
{% for block in section.blocks %}
{% if block.kind == "paragraph" %}<p>{{ block.text }}</p>
{% elif block.kind == "facts" %}<dl>{% for name, value in block.pairs %}<dt>{{ name }}</dt><dd>{{ value|cell }}</dd>{% endfor %}</dl>
{% elif block.kind == "table" %}<div class="scroll"><table>{% if block.caption %}<caption>{{ block.caption }}</caption>{% endif %}
<thead><tr>{% for name in block.head %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in block.rows %}<tr>{% for value in row %}<td>{{ value|cell }}</td>{% endfor %}</tr>{% endfor %}</tbody></table></div>
{% elif block.kind == "figure" %}<figure><img alt="{{ block.caption }}" src="{{ block.source }}"{% if block.width %} width="{{ block.width }}"{% endif %}>
<figcaption>{{ block.caption }}</figcaption></figure>
{% elif block.kind == "funnel" %}<div class="funnel">{% for name, count, remark in block.steps %}
<span>{{ name }}</span><b>{{ count|cell }}</b><div><div class="bar" style="width:{{ block.share(count)|round(2) }}%"></div>
{% if remark %}<span class="remark">{{ remark }}</span>{% endif %}</div>{% endfor %}</div>
{% endif %}
{% endfor %}
</section>
{% endfor %}
</main><footer>Made by marlin. Faces are personal data: keep this page as you keep the videos.</footer>
</body></html>
"""
