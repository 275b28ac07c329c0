"""Prometheus metrics of a command: served over HTTP while it runs, written as a text file when it ends."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server, write_to_textfile

from infra.errors import ConfigError
from infra.run import METRICS_TEXT

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def exported(registry: CollectorRegistry, *, host: str, port: int, folder: Path | None = None) -> Iterator[None]:
    """Serve ``http://host:port/metrics`` for the body, then write ``folder/metrics.prom``, whatever happened.

    Args:
        registry: the metrics, read at each scrape.
        host: address to listen on.
        port: 0 serves nothing.
        folder: None writes nothing.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    server = None
    if port:
        try:
            server, _ = start_http_server(port, host, registry)
        except OSError as error:
            raise ConfigError(
                f"metrics cannot be served on {host}:{port} ({error.strerror or error}); choose another metrics.port"
            ) from error
    try:
        yield
    finally:
        if server is not None:
            server.shutdown()
            server.server_close()
        if folder is not None:
            try:
                write_to_textfile(str(folder / METRICS_TEXT), registry)
            except OSError as error:  # a full disk has its own sentence, and numbers are no reason to fail a night
                logger.warning("metrics cannot be written to %s: %s", folder, error.strerror or error)
