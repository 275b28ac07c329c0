"""``marlin registry …``: which encoders were made, which is live and why, and changing that by hand."""

from __future__ import annotations

import builtins
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel

from flows.command import Door, command
from flows.config import RegistryConfig
from flows.registry import Attempt, Decision, Encoder, Registry, ancestors, live_version
from infra.errors import ConfigError, ProjectError
from infra.storage import open_storage

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
        rows: dict[str, Sequence[BaseModel]] = {"encoders": encoders, "decisions": decisions, "abandoned": abandoned}
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
def live(cfg: RegistryConfig, as_json: Json = False) -> None:
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
    _tell(cfg, registry, registry.decide("promote", cfg.version, cfg.why))


@command(app, REGISTRY, WHY)
def rollback(cfg: RegistryConfig) -> None:
    """Make live what was live before, without what was rolled back already; the reason stays."""
    if not cfg.why:
        raise ConfigError("--why is needed: for what reason")
    registry = Registry(cfg.registry)
    _tell(cfg, registry, registry.rollback(cfg.why))


def _tell(cfg: RegistryConfig, registry: Registry, decision: Decision) -> None:
    """Say what is live now and what it stands on; warn, on stderr, of what should not be."""
    from model.licences import non_commercial

    encoder = registry.encoder(decision.version)
    left = "" if decision.previous in (None, decision.version) else f", version {decision.previous} was left"
    print(f"version {decision.version} is live{left}")
    print(f"made {encoder.created}: {_origin(encoder.attempt)} of {encoder.dataset}")
    print("\n".join(f"behind it: {licence}" for licence in encoder.licences))
    closed = non_commercial(encoder.licences, cfg.commercial_licences)
    warnings = _taken_down(registry, encoder)
    if closed and cfg.commercial_use:
        warnings.append(f"commercial_use is set, and behind it stand {'; '.join(closed)}")
    for warning in warnings:
        print(f"marlin: version {decision.version} is live, but {warning}", file=sys.stderr)


def _taken_down(registry: Registry, encoder: Encoder) -> builtins.list[str]:
    """Say which dataset versions it learnt from that cannot be read any more: taken down, or dropped since."""
    from pipeline.dataset.versions import VersionRecord, read_version

    said = []
    for one in ancestors(registry.encoders(), encoder.number):
        where = f"version {one.dataset_version} of {one.dataset}"
        who = "it" if one == encoder else f"version {one.number}, which it continues from,"
        try:
            if not isinstance(read_version(open_storage(one.dataset), one.dataset_version), VersionRecord):
                said.append(f"{who} learnt from {where}, which was taken down")
        except ProjectError as error:
            said.append(f"whether {where} was taken down cannot be told ({error})")
    return said


@command(app, REGISTRY, WHY)
def abandon(cfg: RegistryConfig) -> None:
    """Give up the candidate in the making; the next one is made on a newer dataset version. The reason stays."""
    if not cfg.why:
        raise ConfigError("--why is needed: for what reason")
    print(f"abandoned: the candidate on {_origin(Registry(cfg.registry).abandon(cfg.why).attempt)}")
