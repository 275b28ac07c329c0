"""Make this machine a node of a Ray cluster for as long as a driver runs here: a driver speaks to a node beside it."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from infra.errors import ConfigError
from infra.lifeline import die_with
from infra.log import last_line
from infra.scratch import owned_folder

logger = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 256 << 20
"""A node of ours carries rows of a few hundred bytes, never frames."""
JOIN_S = 120.0
"""Seconds for the node to join."""
LEAVE_S = 30.0
"""Seconds for it to end."""
POLL_S = 0.1


@contextmanager
def joined(address: str) -> Iterator[str]:
    """Join the cluster at ``host:port`` without CPUs or GPUs, so that no work comes here; yield the node's folder.

    The machines of the cluster must reach this one, at any port.

    Raises:
        ConfigError: the node does not join.
    """
    folder, handle = owned_folder(Path("/tmp"), "ray-node-")  # a short name: sockets' are limited to 107 bytes
    log = folder / "start.log"
    command = [
        str(Path(sys.executable).with_name("ray")), "start", "--block", f"--address={address}", "--num-cpus=0",
        "--num-gpus=0", f"--object-store-memory={OBJECT_STORE_BYTES}", f"--temp-dir={folder}", "--disable-usage-stats",
    ]  # fmt: skip
    with log.open("wb") as output:
        node = subprocess.Popen(
            command, env={**os.environ, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}, stdin=subprocess.DEVNULL,
            stdout=output, stderr=output, preexec_fn=partial(die_with, os.getpid()),
            pass_fds=(handle,),  # the folder is in use until both have ended
            start_new_session=True,  # Ctrl-C is for this process, which still needs it
        )  # fmt: skip
    try:
        end = time.monotonic() + JOIN_S
        while not (folder / "ray_current_cluster").exists():  # what `ray start` writes last
            if node.poll() is not None or time.monotonic() > end:
                raise ConfigError(
                    f"this machine cannot join the Ray cluster at RAY_ADDRESS={address} "
                    f"({last_line(log) or 'no answer'}); give both the same "
                    "versions of Python and Ray, and let them reach each other"
                )
            time.sleep(POLL_S)
        logger.info("joined the Ray cluster, as a node that takes no work")
        yield str(folder)
    finally:
        node.terminate()
        try:
            node.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            node.kill()
            node.wait()
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)
