"""Attach to the Ray cluster at hand or start a small one of our own; leave things as they were found.

Ray has no password: who reaches its ports runs code as its user. Ours listens on loopback alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator

from infra.errors import ConfigError, ProjectError

logger = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 256 << 20
"""Our own cluster carries rows of a few hundred bytes, never frames."""
STARTS = 3
"""Attempts to start; Ray gives its own processes 30 s, which is too few on a very busy machine."""
CONNECT_S = 10.0
"""Seconds for the cluster at RAY_ADDRESS to answer."""
CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""The switch by which Ray keeps to loopback on laptops; with it off, 127.0.0.1 is not replaced by a public address."""


@contextlib.contextmanager
def ray_session(cpus: int | None = None) -> Iterator[int]:
    """Yield the number of CPUs that Ray has.

    With ``RAY_ADDRESS`` set, or Ray already started in this process, that cluster is used and left running.
    Otherwise one is started with ``cpus`` CPUs (None: this machine's), no dashboard, reachable from this machine only,
    and stopped at the end.

    Raises:
        ConfigError: nothing answers at ``RAY_ADDRESS``.
        ProjectError: Ray cannot start here.
    """
    import ray

    started = False
    if not ray.is_initialized():
        started = True
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")  # ours counts videos, not blocks
        if address := os.environ.get("RAY_ADDRESS"):
            _check_answers(address)
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
            logger.info("attached to the Ray cluster at RAY_ADDRESS")
        else:
            _start(cpus)
            logger.info("started Ray on this machine")
    try:
        yield max(int(ray.cluster_resources().get("CPU", 1)), 1)
    finally:
        if started:
            ray.shutdown()


def _start(cpus: int | None) -> None:
    import ray

    for attempt in range(1, STARTS + 1):
        try:
            with _loopback_only():
                ray.init(
                    address="local",  # never another's cluster that happens to run on this machine
                    num_cpus=cpus,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    object_store_memory=OBJECT_STORE_BYTES,
                    _node_ip_address="127.0.0.1",
                )
            return
        except Exception as error:  # Ray raises bare ones here
            ray.shutdown()
            first = str(error).strip().partition("\n")[0]
            if attempt == STARTS:
                raise ProjectError(
                    f"Ray cannot start on this machine ({first}); run again when it is less busy"
                ) from error
            logger.warning("Ray did not start (%s); trying again", first)


def _check_answers(address: str) -> None:
    """Ask a ``host:port`` before Ray does, which would try for minutes."""
    host, colon, port = address.rpartition(":")
    if not (colon and port.isdigit()):  # "auto", or an address of another kind
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"no Ray cluster answers at RAY_ADDRESS={address} ({error}); start it, or unset RAY_ADDRESS to run here"
        ) from error


@contextlib.contextmanager
def _loopback_only() -> Iterator[None]:
    """Start what is started here with loopback as this node's address; Ray binds to all interfaces otherwise.

    The variable is for the processes that Ray starts; this one has read it already, when it imported Ray.
    """
    from ray._private import ray_constants

    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    known = os.environ.get(CLUSTERS)
    os.environ[CLUSTERS] = "0"
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        if known is None:
            del os.environ[CLUSTERS]
        else:
            os.environ[CLUSTERS] = known
