"""``marlin registry …``: which encoders were made, which is live and why, and changing that by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.command import Door, command
from flows.config import RegistryConfig
from flows.registry import Attempt, Registry, live_version
from infra.errors import ConfigError

app = typer.Typer(help="Which encoders there are, which is live, and why.")
REGISTRY = Door("registry", "REGISTRY")
WHY = Door("why", "SENTENCE", "--why")
Json = Annotated[bool, typer.Option("--json", metavar="", help="One line of JSON, for programs.")]


@command(app, REGISTRY)
def list(cfg: RegistryConfig, as_json: Json = False) -> None:
    """List encoders, what was decided about them, and the candidate in the making; `*` is live."""
    registry = Registry(cfg.registry)
    if not any(registry.storage.list()) and not Path(registry.storage.uri).is_dir():
        raise ConfigError(f"there is no registry at {registry.storage.uri}; the flow improve of `marlin up` makes it")
    decisions, encoders = registry.decisions(), registry.encoders()
    live, attempt, abandoned = live_version(decisions), registry.attempt(), registry.abandoned()
    if as_json:
        rows = {"encoders": encoders, "decisions": decisions, "abandoned": abandoned}
        facts = {"live": live, "attempt": attempt and attempt.model_dump()}
        print(json.dumps(facts | {name: [row.model_dump() for row in found] for name, found in rows.items()}))
        return
    if not encoders:
        print(f"no encoder in {registry.storage.uri} yet; the flow improve of `marlin up` makes the first")
    for encoder in encoders:
        star = "*" if encoder.number == live else " "
        print(f"{star} {encoder.number:>4}  {encoder.created}  {_origin(encoder.attempt)}")
        for decision in decisions:
            if decision.version == encoder.number:
                print(f"        {decision.at}  {decision.action}: {decision.why}")
    for given_up in abandoned:
        print(f"abandoned  {given_up.at}  {_origin(given_up.attempt)}: {given_up.why}")
    if attempt is not None:
        print(f"in the making  {_origin(attempt)}")


def _origin(attempt: Attempt) -> str:
    start = f"from {attempt.parent}" if attempt.parent else "from the start"
    return f"dataset version {attempt.dataset_version}, {start}"


@command(app, REGISTRY)
def live(
    cfg: RegistryConfig,
    as_json: Json = False,
) -> None:
    """Say which encoder is live, where its weights are, and why; exit code 1 when none is."""
    registry = Registry(cfg.registry)
    encoder = registry.live()
    if encoder is None:
        print(f"no encoder of {registry.storage.uri} is live", file=sys.stderr)
        raise typer.Exit(1)
    why = [decision for decision in registry.decisions() if decision.action != "refuse"][-1].why
    weights = f"{registry.storage.uri}/{encoder.key}"
    if as_json:
        print(json.dumps({**encoder.model_dump(), "weights": weights, "why": why}))
        return
    print(f"version {encoder.number}: {why}")
    print(f"weights {weights}")
    print("\n".join(f"behind it: {licence}" for licence in encoder.licences))


@command(app, REGISTRY, Door("version", "N", "--version"), WHY)
def promote(cfg: RegistryConfig) -> None:
    """Make an encoder live by hand; the reason stays."""
    from model.licences import non_commercial

    if cfg.version is None or not cfg.why:
        raise ConfigError("--version and --why are needed: which encoder, and for what reason")
    registry = Registry(cfg.registry)
    closed = non_commercial(registry.encoder(cfg.version).licences, cfg.commercial_licences)
    if cfg.commercial_use and closed:
        raise ConfigError(f"commercial_use is set, and behind version {cfg.version} stand {'; '.join(closed)}")
    print(f"version {registry.decide('promote', cfg.version, cfg.why).version} is live")


@command(app, REGISTRY, WHY)
def rollback(cfg: RegistryConfig) -> None:
    """Make live what was live before; the reason stays."""
    if not cfg.why:
        raise ConfigError("--why is needed: for what reason")
    print(f"version {Registry(cfg.registry).rollback(cfg.why).version} is live")


@command(app, REGISTRY, WHY)
def abandon(cfg: RegistryConfig) -> None:
    """Give up the candidate in the making; the next one is made on a newer dataset version. The reason stays."""
    if not cfg.why:
        raise ConfigError("--why is needed: for what reason")
    print(f"abandoned: the candidate on {_origin(Registry(cfg.registry).abandon(cfg.why).attempt)}")
