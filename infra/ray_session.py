"""Attach to the Ray cluster at hand or start a small one of our own; leave things as they were found."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

logger = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 256 << 20
"""Our own cluster carries rows of a few hundred bytes, never frames."""


@contextlib.contextmanager
def ray_session(cpus: int | None = None) -> Iterator[int]:
    """Yield the number of CPUs that Ray has.

    With ``RAY_ADDRESS`` set, or Ray already started in this process, that cluster is used and left running.
    Otherwise one is started with ``cpus`` CPUs (None: this machine's), no dashboard, and stopped at the end.
    """
    import ray

    started = False
    if not ray.is_initialized():
        started = True
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")  # ours counts videos, not blocks
        if os.environ.get("RAY_ADDRESS"):
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
            logger.info("attached to the Ray cluster at RAY_ADDRESS")
        else:
            ray.init(
                num_cpus=cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=OBJECT_STORE_BYTES,
                _node_ip_address="127.0.0.1",
            )
            logger.info("started Ray on this machine")
    try:
        yield max(int(ray.cluster_resources().get("CPU", 1)), 1)
    finally:
        if started:
            ray.shutdown()
