"""One typed, frozen tree of settings: a YAML file plus ``dotted.key=value`` overrides, validated once."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from infra.errors import ConfigError

ConfigT = TypeVar("ConfigT", bound="BaseConfig")


class BaseConfig(BaseModel):
    """A frozen set of settings; unknown names are refused, fields carry their docstrings into the JSON schema."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)


def load_config(
    cls: type[ConfigT],
    path: str | Path | None = None,
    overrides: Sequence[str] = (),
    given: Mapping[str, Any] | None = None,
) -> ConfigT:
    """Read ``path`` (YAML), lay ``given`` and then ``overrides`` over it and validate the result once.

    Args:
        cls: the config class to build.
        path: YAML file; None starts from the class's defaults.
        overrides: ``dotted.key=value`` strings, values parsed as YAML, later ones win.
        given: values under dotted keys, taken as they are.

    Raises:
        ConfigError: file absent or no YAML mapping, override without ``=``, unknown name, wrong value.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        try:
            loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"config file {path} cannot be read: {error.strerror or error}") from error
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise ConfigError(f"config file {path} is not valid YAML: {' '.join(str(error).split())}") from error
        if loaded is not None and not isinstance(loaded, dict):
            raise ConfigError(f"config file {path} must hold a mapping, not {type(loaded).__name__}")
        tree = loaded or {}
    for dotted, value in (given or {}).items():
        tree = _merged(tree, dotted, value)
    for override in overrides:
        tree = _merged(tree, *_parsed(override))
    where = [str(path)] if path else []
    if given or overrides or not path:
        where.append("the given settings")
    return validate_config(cls, tree, where=" and ".join(where))


def validate_config(cls: type[ConfigT], tree: Mapping[str, Any], *, where: str) -> ConfigT:
    """Build ``cls`` from plain data; the first problem becomes one ConfigError sentence naming the dotted key."""
    try:
        return cls.model_validate(dict(tree))
    except ValidationError as error:
        raise ConfigError(f"in {where}: {_sentence(cls, error)}") from error


def config_digest(config: BaseModel) -> str:
    """Return the sha256 (hex) of the config's canonical JSON: equal settings, equal digest."""
    return tree_digest(config.model_dump(mode="json"))


def tree_digest(tree: Mapping[str, Any]) -> str:
    """Return the sha256 (hex) of plain data's canonical JSON."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def flat_tree(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return plain data under dotted keys; empty mappings stay."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        nested = isinstance(value, dict) and value
        flat |= flat_tree(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def dump_config(config: BaseModel) -> str:
    """Return the config as YAML, in field order, as ``load_config`` reads it back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _parsed(override: str) -> tuple[str, Any]:
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise ConfigError(f"override {override!r} is not of the form dotted.key=value")
    try:
        return dotted, yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"override {override!r}: the value is not valid YAML") from error


def _merged(tree: dict[str, Any], dotted: str, value: Any) -> dict[str, Any]:
    root = dict(tree)
    node = root
    *parents, leaf = dotted.split(".")
    for name in parents:
        child = node.get(name)
        node[name] = dict(child) if isinstance(child, dict) else {}
        node = node[name]
    node[leaf] = value
    return root


def _sentence(cls: type[BaseModel], error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    key, owner = _place(cls, first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        return f"unknown setting '{key}'{_suggestion(owner, str(first['loc'][-1]))}"
    if first["type"] == "tuple_type":
        return f"'{key}': this is a list; write {key}=[{first['input']}]"
    shown = "" if isinstance(first["input"], dict) else f" (got {first['input']!r})"
    rest = error.error_count() - 1
    return f"'{key}': {message}{shown}" + (f"; {rest} more problem{'s' if rest > 1 else ''}" if rest else "")


def _place(cls: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[str, Any]:
    """The dotted key of an error, as it is written in a file, and the class that its last part should belong to."""
    node: Any = cls
    owner: Any = cls
    parts = []
    for part in loc:
        if get_origin(node) in (Union, UnionType):  # pydantic names the member that it chose: no key of the file
            node = next((member for member in get_args(node) if _kind(member) == part), None)
            continue
        parts.append(str(part))
        owner = node
        node = getattr(getattr(node, "model_fields", {}).get(part), "annotation", None)
    return ".".join(parts) or cls.__name__, owner


def _kind(member: Any) -> Any:
    field = getattr(member, "model_fields", {}).get("kind")
    return field.default if field is not None else None


def _suggestion(owner: Any, name: str) -> str:
    names = list(getattr(owner, "model_fields", {}))
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known here: {', '.join(names)}" if names else ""
