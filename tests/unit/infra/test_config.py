"""Settings: one file, overrides, one sentence for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from infra.config import BaseConfig, config_digest, dump_config, load_config
from infra.errors import ConfigError


class Inner(BaseConfig):
    rate: float = Field(default=0.1, gt=0)


class Outer(BaseConfig):
    inner: Inner = Inner()
    name: str = "plain"
    names: tuple[str, ...] = ()


def test_an_override_wins_over_the_file_and_exponents_are_numbers(tmp_path: Path) -> None:
    """PyYAML reads 3e-4 as a string; a config must not."""
    path = tmp_path / "a.yaml"
    path.write_text("inner: {rate: 0.5}\nname: file\n")
    cfg = load_config(Outer, path, ["inner.rate=3e-4"])
    assert (cfg.inner.rate, cfg.name) == (3e-4, "file")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("inner.rat=1", "did you mean 'rate'"),
        ("inner.rate=-1", "'inner.rate'"),
        ("inner", "dotted.key=value"),
        ("nonsense=1", "unknown setting 'nonsense'"),
        ("names=a", r"'names': this is a list; write names=\[a\]"),
    ],
)
def test_a_wrong_override_is_one_sentence_that_names_the_key(override: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        load_config(Outer, None, [override])
    assert "\n" not in str(caught.value)


def test_a_missing_or_broken_file_is_a_config_error(tmp_path: Path) -> None:
    broken = tmp_path / "b.yaml"
    broken.write_text("a: [")
    for path in (tmp_path / "absent.yaml", broken):
        with pytest.raises(ConfigError):
            load_config(Outer, path)


def test_what_is_dumped_loads_as_the_same_settings_with_the_same_digest(tmp_path: Path) -> None:
    cfg = load_config(Outer, None, ["name=ü"])
    path = tmp_path / "c.yaml"
    path.write_text(dump_config(cfg), encoding="utf-8")
    again = load_config(Outer, path)
    assert again == cfg
    assert config_digest(again) == config_digest(cfg) != config_digest(Outer())
