"""How a command is made of a config class: its arguments and options are doors to settings, and there are no others.

Each command takes ``--config FILE``, ``dotted.key=value`` overrides and ``--print-config`` besides. What is said twice
is decided so: overrides win over arguments and options, these over the file, the file over the defaults.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from pydantic.fields import FieldInfo
from typer.core import TyperArgument, TyperCommand

from infra.config import BaseConfig, dump_config, load_config
from infra.errors import ConfigError

Run = Callable[..., None]

OVERRIDES = "[KEY=VALUE]…"
PRINT = typer.Option("--print-config", metavar="", help="Print the settings in force as YAML, and stop.")


@dataclass(frozen=True)
class Door:
    """A setting with a name of its own on the command line.

    ``key`` is the dotted setting; help text, choices and default are read from its field. ``metavar`` stands for the
    value in help. Without ``flag`` it is an argument of the command, taking all that follow where it is a tuple; an
    option that is a tuple may be repeated.
    """

    key: str
    metavar: str
    flag: str = ""
    needed: bool = True
    """Whether an empty value is refused before ``run`` is called; where False, ``run`` looks itself."""

    @property
    def parameter(self) -> str:
        """The name of the Python parameter behind the option."""
        return self.key.replace(".", "_")


def command(app: typer.Typer, *doors: Door, recipe: Path | None = None) -> Callable[[Run], Run]:
    """Add ``run(cfg, …)`` to ``app``, where the annotation of ``cfg`` names the config class.

    Further parameters of ``run`` are Typer options as they stand: for what is no setting (a run folder, ``--json``).
    A setting behind a door whose default is empty must be filled, by whichever way.

    Args:
        app: the group that the command joins, under the name of ``run``.
        doors: arguments, in their order, and options; only the last argument may be a tuple.
        recipe: config file that is read where none is named.
    """

    def add(run: Run) -> Run:
        cls: type[BaseConfig] = get_type_hints(run)["cfg"]
        arguments_taken = [door for door in doors if not door.flag]
        options = [door for door in doors if door.flag]

        def entry(arguments: list[str] | None, config: Path | None, print_config: bool, **more: Any) -> None:
            places, overrides = split_overrides(arguments or [])
            given = {door.key: value for door in options if (value := more.pop(door.parameter)) not in (None, [])}
            given |= _filled(cls, arguments_taken, places)
            cfg = load_config(cls, config or recipe, overrides, given)
            if print_config:
                typer.echo(dump_config(cfg), nl=False)
                return
            for door in doors:
                if door.needed:
                    check_filled(cfg, door)
            run(cfg, **more)

        own = list(inspect.signature(run, eval_str=True).parameters.values())[1:]
        parameters = [
            _parameter("arguments", list[str] | None, _arguments(arguments_taken)),
            *(_parameter(door.parameter, _kind(cls, door), _option(cls, door)) for door in options),
            *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own),
            _parameter("config", Path | None, _config_option(recipe)),
            _parameter("print_config", bool, PRINT, False),
        ]
        entry.__name__, entry.__doc__ = run.__name__, _help(run, cls, arguments_taken)
        entry.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        entry.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app.command(cls=_Command)(entry)
        return run

    return add


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Tell (places, overrides) apart: an override has a plain dotted key before ``=``, and is no path that exists."""
    places: list[str] = []
    overrides: list[str] = []
    for argument in arguments:
        key, equals, _ = argument.partition("=")
        is_override = bool(equals) and all(map(str.isidentifier, key.split("."))) and not Path(argument).exists()
        (overrides if is_override else places).append(argument)
    return places, overrides


def _parameter(name: str, kind: Any, info: Any, default: Any = None) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


class _Command(TyperCommand):
    """Shows the argument in the usage line as it is written, without brackets and dots of Typer's own."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """See Typer."""
        arguments = [param.metavar or "" for param in self.params if isinstance(param, TyperArgument)]
        return [*arguments, self.options_metavar or ""]


def _config_option(recipe: Path | None) -> Any:
    default = f" (default: the recipe `{recipe.name}`)" if recipe else ""
    return typer.Option("--config", metavar="FILE", help=f"YAML file of settings.{default}")


def _arguments(doors: Sequence[Door]) -> Any:
    return typer.Argument(metavar=" ".join([*(door.metavar for door in doors), OVERRIDES]), hidden=True)


def _help(run: Run, cls: type[BaseConfig], doors: Sequence[Door]) -> str:
    """The docstring, and a list of what the arguments and the overrides are (Typer shows their Python types)."""
    rows = [f"- `{door.metavar}`: {_text(cls, door)}" for door in doors]
    rows.append(f"- `KEY=VALUE`: Any setting that `--print-config` shows{_example(cls)}.")
    return "\n\n".join([inspect.getdoc(run) or "", "\n".join(rows)])


def _example(cls: type[BaseConfig]) -> str:
    """The first nested number, as one would write it."""
    nested = ((name, field.get_default(call_default_factory=True)) for name, field in cls.model_fields.items())
    for name, part in nested:
        for leaf, value in part if isinstance(part, BaseConfig) else ():
            if isinstance(value, int | float) and not isinstance(value, bool):
                return f", e.g. `{name}.{leaf}={value}`"
    return ""


def _is_tuple(cls: type[BaseConfig], door: Door) -> bool:
    return get_origin(_field(cls, door.key).annotation) is tuple


def _kind(cls: type[BaseConfig], door: Door) -> Any:
    return list[str] | None if _is_tuple(cls, door) else str | None


def _option(cls: type[BaseConfig], door: Door) -> Any:
    default = _field(cls, door.key).get_default(call_default_factory=True)
    said = " ".join(default) if isinstance(default, tuple) else default
    shown = f" (default: `{said}`)" if said not in (None, "") else ""
    if _is_tuple(cls, door):
        shown = f" May be repeated{shown}."
    return typer.Option(door.flag, metavar=door.metavar, help=_text(cls, door) + shown, show_default=False)


def _text(cls: type[BaseConfig], door: Door) -> str:
    field = _field(cls, door.key)
    text = " ".join((field.description or "").split())
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    return text if all(choice in text for choice in choices) else f"{text} ({', '.join(choices)})"


def _field(cls: type[BaseConfig], key: str) -> FieldInfo:
    *parents, leaf = key.split(".")
    for name in parents:
        cls = cls.model_fields[name].annotation  # type: ignore[assignment]
    return cls.model_fields[leaf]


def _filled(cls: type[BaseConfig], doors: Sequence[Door], places: Sequence[str]) -> dict[str, Any]:
    if places and not doors:
        raise ConfigError(f"'{places[0]}' is not of the form key=value, and no other argument is taken")
    given: dict[str, Any] = {}
    for number, door in enumerate(doors[: len(places)]):
        if _is_tuple(cls, door):
            return given | {door.key: list(places[number:])}
        given[door.key] = places[number]
    if len(places) > len(doors):
        names = f"one {doors[0].metavar} is" if len(doors) == 1 else f"{' '.join(d.metavar for d in doors)} are"
        raise ConfigError(f"{names} taken and {len(places)} are given: {', '.join(places)}")
    return given


def check_filled(cfg: BaseConfig, door: Door) -> None:
    """Raise ConfigError while the setting behind a door is empty."""
    value: Any = cfg
    for name in door.key.split("."):
        value = getattr(value, name)
    if value in ("", ()):
        raise ConfigError(f"{door.flag or door.metavar} is missing: give it, or set '{door.key}' in a config file")
