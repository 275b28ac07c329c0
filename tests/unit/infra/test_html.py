"""Reports show names that came from outside."""

from __future__ import annotations

from infra.html import Facts, Figure, Funnel, Section, Table, page


def test_hostile_names_are_escaped_and_nothing_is_loaded_from_elsewhere() -> None:
    evil = '<script>alert("x")</script>'
    text = page(evil, evil, [Section(evil, evil, [Table((evil,), [(evil,)]), Facts([(evil, evil)])])])
    assert "<script" not in text
    assert "http://" not in text
    assert "https://" not in text


def test_pictures_are_inside_the_page_and_bars_show_their_counts() -> None:
    text = page("t", "s", [Section("a b", "", [Figure(b"\x89PNG", "seen"), Funnel((("videos", 1234, "all"),))])])
    assert "data:image/png;base64,iVBORw==" in text
    assert "1,234" in text
    assert 'id="a-b"' in text
