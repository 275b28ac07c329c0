"""Start the flow on Prefect's own temporary server: settings that must be in place before Prefect is imported."""

from __future__ import annotations

import os
from pathlib import Path

from flows.config import EndToEndConfig
from flows.outputs import EndToEndOutputs
from flows.tables_config import TablesConfig


def run_end_to_end(cfg: EndToEndConfig) -> EndToEndOutputs:
    """Run the flow ``end_to_end`` and return what it made."""
    _prepare(cfg.work)
    from flows.end_to_end import end_to_end_flow

    return end_to_end_flow(cfg)


def run_tables(cfg: TablesConfig) -> Path:
    """Run the flow ``tables`` and return the page that it wrote."""
    _prepare(cfg.work)
    from flows.tables import run_tables

    return run_tables(cfg)


def _prepare(work: str) -> None:
    """Set what Prefect reads when it is imported.

    Unless PREFECT_API_URL names a server, a temporary one is started on loopback; its database lies under
    ``<work>/prefect``, so that nothing is written to the home folder.
    """
    home = Path(os.environ.setdefault("PREFECT_HOME", str(Path(work).absolute() / "prefect")))
    home.mkdir(parents=True, exist_ok=True)  # Prefect makes the last folder only
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "240")
    os.environ.setdefault("DO_NOT_TRACK", "1")
