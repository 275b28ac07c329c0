from __future__ import annotations

from pathlib import Path

import pytest

from infra.errors import ConfigError
from pipeline.config import IngestConfig, SplitConfig, SplitLists
from pipeline.recipe import recipe_digest
from pipeline.sources.layouts import official
from pipeline.sources.layouts.official import official_split


def _lists(tmp_path: Path, **text: str) -> SplitLists:
    for name, content in text.items():
        (tmp_path / name).write_text(content)
    return SplitLists(**{name: str(tmp_path / name) for name in text})


def test_lists_are_json_or_the_first_word_of_each_line(tmp_path: Path) -> None:
    """Bug caught: a list of one kind read as the other; LRS2's second column or a csv's length taken for a name."""
    lists = _lists(tmp_path, train='[["a", "b"], "c"]', val="d NF\n\ne,17\n", test="  \n")
    assert official_split(lists) == {"a": "train", "b": "train", "c": "train", "d": "val", "e": "val"}
    assert official_split(None) == official_split(SplitLists()) == {}


def test_a_name_in_two_lists_is_refused(tmp_path: Path) -> None:
    """Bug caught: train and test swapped in part, which no number would show."""
    with pytest.raises(ConfigError, match="names 'a' for test, and another list for train"):
        official_split(_lists(tmp_path, train="a", test="b\na"))


@pytest.mark.parametrize("text", ['["a"', "[1, 2]", "[" * 100_000, "[[[]]]"], ids=["cut", "numbers", "deep", "nested"])
def test_a_damaged_list_is_one_sentence(tmp_path: Path, text: str) -> None:
    """Bug caught: a traceback, or a crash, for a file that is not what it should be."""
    with pytest.raises(ConfigError, match="split list"):
        official_split(_lists(tmp_path, train=text))


def test_bytes_that_are_no_text_and_absent_or_huge_files_are_one_sentence(tmp_path: Path, monkeypatch) -> None:
    """Bug caught: the same for a wrong path, a binary, or a file that fills the memory."""
    (tmp_path / "x").write_bytes(b"\xff\xfe\x00")
    for path, words in (("x", "damaged"), ("absent", "cannot be read")):
        with pytest.raises(ConfigError, match=words):
            official_split(SplitLists(train=str(tmp_path / path)))
    monkeypatch.setattr(official, "MAX_LIST_BYTES", 2)
    with pytest.raises(ConfigError, match="is larger than"):
        official_split(SplitLists(train=str(tmp_path / "x")))


def test_the_recipe_knows_what_the_lists_say_and_not_where_they_lie(tmp_path: Path) -> None:
    """Bug caught: a moved list that refuses the dataset; a changed one that mixes two splits in one dataset."""

    def digest(text: str, folder: str) -> str:
        (tmp_path / folder).mkdir(exist_ok=True)
        lists = _lists(tmp_path / folder, train=text)
        return recipe_digest(IngestConfig(split=SplitConfig(official={"mosei": lists})))

    assert digest("a", "here") == digest("a", "there")
    assert len({digest("a", "here"), digest("b", "here"), recipe_digest(IngestConfig())}) == 3
