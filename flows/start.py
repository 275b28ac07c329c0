"""Start the flow on Prefect's own temporary server: settings that must be in place before Prefect is imported."""

from __future__ import annotations

import os
from pathlib import Path

from flows.config import EndToEndConfig
from flows.outputs import EndToEndOutputs


def run_end_to_end(cfg: EndToEndConfig) -> EndToEndOutputs:
    """Run the flow ``end_to_end`` and return what it made.

    Unless PREFECT_API_URL names a server, a temporary one is started on loopback; its database lies under
    ``<work>/prefect``, so that nothing is written to the home folder.
    """
    home = Path(os.environ.setdefault("PREFECT_HOME", str(Path(cfg.work).absolute() / "prefect")))
    home.mkdir(parents=True, exist_ok=True)  # Prefect makes the last folder only
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "240")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    from flows.end_to_end import end_to_end_flow

    return end_to_end_flow(cfg)
