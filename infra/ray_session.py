"""Attach to the Ray cluster at hand or start a small one of our own; leave things as they were found.

Who reaches Ray's ports runs code as its user, unless the cluster asks for a token. Ours listens on loopback alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import stat
from collections.abc import Iterator
from typing import Any

from infra.errors import ConfigError, ProjectError
from infra.ray_node import OBJECT_STORE_BYTES, joined

logger = logging.getLogger(__name__)

STARTS = 3
"""Attempts to start; Ray gives its own processes 30 s, which is too few on a very busy machine."""
CONNECT_S = 10.0
"""Seconds for the cluster at RAY_ADDRESS to answer."""
CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""The switch by which Ray keeps to loopback on laptops; with it off, 127.0.0.1 is not replaced by a public address."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Hosts that Ray would replace by a public address of this machine."""
AUTH_MODE = "RAY_AUTH_MODE"
"""Whether Ray's processes show each other a token; unset, Ray decides differently for each way to start or attach."""


@contextlib.contextmanager
def ray_session(cpus: int | None = None) -> Iterator[int]:
    """Yield the number of CPUs that Ray has.

    With ``RAY_ADDRESS`` set, or Ray already started in this process, that cluster is used and left running; where this
    machine is no node of it, a node that takes no work runs beside this process meanwhile. Otherwise a cluster is
    started with ``cpus`` CPUs (None: this machine's), no dashboard, reachable from this machine only, and stopped at
    the end; what Ray wrote about it is kept only if the work fails.

    Raises:
        ConfigError: nothing answers at ``RAY_ADDRESS``, or this machine cannot join what does.
        ProjectError: Ray cannot start here.
    """
    import ray

    if ray.is_initialized():
        yield _cpus()
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")  # ours counts videos, not blocks
    address = os.environ.get("RAY_ADDRESS")
    with _auth_mode_kept(), _attached(address) if address else _started(cpus):
        yield _cpus()


def _cpus() -> int:
    import ray

    return max(int(ray.cluster_resources().get("CPU", 1)), 1)


@contextlib.contextmanager
def _started(cpus: int | None) -> Iterator[None]:
    import ray

    folder = _start(cpus)
    logger.info("started Ray on this machine")
    try:
        yield
    finally:
        ray.shutdown(wait_for_processes=True)
    shutil.rmtree(folder, ignore_errors=True)


def _start(cpus: int | None) -> str:
    """Start a cluster; return its folder, which Ray never deletes."""
    import ray

    for attempt in range(1, STARTS + 1):
        try:
            with _loopback_only():
                context: Any = ray.init(
                    address="local",  # never another's cluster that happens to run on this machine
                    num_cpus=cpus,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    object_store_memory=OBJECT_STORE_BYTES,
                    _node_ip_address="127.0.0.1",
                )
            return str(context.address_info["session_dir"])
        except Exception as error:  # Ray raises bare ones here
            ray.shutdown()
            if attempt == STARTS:
                raise ProjectError(
                    f"Ray cannot start on this machine ({_first_line(error)}); run again when it is less busy"
                ) from error
            logger.warning("Ray did not start (%s); trying again", _first_line(error))
    raise AssertionError("unreachable")


@contextlib.contextmanager
def _attached(address: str) -> Iterator[None]:
    import ray

    with contextlib.ExitStack() as stack:
        folder = None
        if (host := _check_answers(address)) is not None:
            if host in LOOPBACK:
                stack.enter_context(_loopback_only())
            folder = _folder_here(_nodes(address))
            if folder is None and host in LOOPBACK:
                raise ConfigError(
                    f"RAY_ADDRESS={address} leads to a Ray cluster of which no node can be spoken to from here; "
                    "name it by the address under which its machines know it"
                )
            folder = folder or stack.enter_context(joined(address))
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, _temp_dir=folder)
        except Exception as error:  # bare ones, again
            raise ConfigError(
                f"cannot attach to the Ray cluster at RAY_ADDRESS={address} ({_first_line(error)}); "
                "see that it is well, or unset RAY_ADDRESS to run here"
            ) from error
        logger.info("attached to the Ray cluster at RAY_ADDRESS")
        stack.callback(ray.shutdown)
        yield


def _check_answers(address: str) -> str | None:
    """Ask a ``host:port`` before Ray does, which would try for minutes; return the host, None for "auto" and others."""
    host, colon, port = address.rpartition(":")
    if not (colon and port.isdigit()) or "://" in address:
        return None
    host = host.strip("[]")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"no Ray cluster answers at RAY_ADDRESS={address} ({error}); start it, or unset RAY_ADDRESS to run here"
        ) from error
    return host


def _nodes(address: str) -> list[Any]:
    """Return what the cluster says of its live nodes; take on its way to authenticate, for this process and children.

    A wrong way is not always an exception: Ray aborts the process where it is to show a token and has none, and a
    driver that wants to be shown one by a cluster that has none waits for ever.
    """
    from ray import _raylet
    from ray.core.generated import gcs_pb2
    from ray.exceptions import AuthenticationError

    compiled: Any = _raylet
    messages: Any = gcs_pb2
    has_token = compiled.AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True)
    if AUTH_MODE not in os.environ and has_token:
        modes = ["disabled", "token"]
    else:
        modes = [os.environ.get(AUTH_MODE, "disabled")]
    for mode in modes:
        _set_auth_mode(mode)
        if mode.lower() == "token" and not has_token:
            break
        try:
            known = compiled.GcsClient(address=address).get_all_node_info(timeout=CONNECT_S)
            return [node for node in known.values() if node.state == messages.GcsNodeInfo.ALIVE]
        except AuthenticationError:
            continue
        except Exception as error:
            raise ConfigError(
                f"what answers at RAY_ADDRESS={address} is no Ray cluster of this version ({_first_line(error)}); "
                "set RAY_ADDRESS to the port of a head node, or unset it to run here"
            ) from error
    raise ConfigError(
        f"the Ray cluster at RAY_ADDRESS={address} asks for a token that this user does not have; copy "
        "~/.ray/auth_token of who started it, or set RAY_AUTH_TOKEN, and leave RAY_AUTH_MODE unset"
    )


def _folder_here(nodes: list[Any]) -> str | None:
    """Return the folder of a node that runs on this machine and can be spoken to, None if there is none.

    A driver speaks to such a node through a socket that is a file. All nodes of a cluster give it the same name, on
    whatever machine, and one on this machine may run in a container: only the file and the process tell.
    """
    from ray._private import services

    here = services.find_node_ids()
    for node in sorted(nodes, key=lambda node: not node.is_head_node):
        if node.node_id.hex() in here and _is_socket(node.raylet_socket_name):
            return str(node.temp_dir)
    return None


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


@contextlib.contextmanager
def _auth_mode_kept() -> Iterator[None]:
    """Leave the way to authenticate as it was; Ray sets it for the whole process when it starts a cluster."""
    before = os.environ.get(AUTH_MODE)
    try:
        yield
    finally:
        _set_auth_mode(before)


def _set_auth_mode(mode: str | None) -> None:
    from ray import _raylet

    compiled: Any = _raylet
    if mode is None:
        os.environ.pop(AUTH_MODE, None)
    else:
        os.environ[AUTH_MODE] = mode
    compiled.Config.initialize("")  # this process has read it already
    compiled.AuthenticationTokenLoader.instance().reset_cache()  # one that was read is demanded of others in any mode


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


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
