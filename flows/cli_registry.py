"""``marlin registry …``: which encoders were made, which is live and why, and changing that by hand."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from flows.command import Door, command
from flows.config import RegistryConfig
from flows.registry import Registry, live_version
from infra.errors import ConfigError

app = typer.Typer(help="Which encoders there are, which is live, and why.")
REGISTRY = Door("registry", "REGISTRY")
WHY = Door("why", "SENTENCE", "--why")


@command(app, REGISTRY)
def list(cfg: RegistryConfig) -> None:
    """List encoders and what was decided about them; `*` is live."""
    registry = Registry(cfg.registry)
    decisions = registry.decisions()
    live = live_version(decisions)
    encoders = registry.encoders()
    if not encoders:
        print(f"no encoder in {registry.storage.uri} yet; the flow improve of `marlin up` makes the first")
    for encoder in encoders:
        star = "*" if encoder.number == live else " "
        origin = f"from {encoder.parent}" if encoder.parent else "from the start"
        print(f"{star} {encoder.number:>4}  {encoder.created}  dataset version {encoder.dataset_version}, {origin}")
        for decision in decisions:
            if decision.version == encoder.number:
                print(f"        {decision.at}  {decision.action}: {decision.why}")


@command(app, REGISTRY)
def live(
    cfg: RegistryConfig,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="One line of JSON, for programs.")] = False,
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
