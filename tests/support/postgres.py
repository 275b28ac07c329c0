"""A PostgreSQL server of a test's own, where PostgreSQL is installed."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any


def _somebody() -> dict[str, Any]:
    """PostgreSQL refuses to run as root: be the user that its package made, or nobody."""
    if os.geteuid() != 0:
        return {}
    names = {user.pw_name for user in pwd.getpwall()}
    return {"user": "postgres" if "postgres" in names else "nobody"}


@contextlib.contextmanager
def postgres() -> Iterator[str | None]:
    """Yield the address of an empty database, or None where PostgreSQL is not installed."""
    if shutil.which("initdb") is None or shutil.which("postgres") is None:
        yield None
        return
    user = _somebody()
    with tempfile.TemporaryDirectory(prefix="marlin-pg-") as folder:
        if user:
            shutil.chown(folder, user["user"])
        run = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **user}
        subprocess.run(["initdb", "-D", f"{folder}/db", "-A", "trust", "-U", "prefect", "-N"], check=True, **run)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        server = subprocess.Popen(
            ["postgres", "-D", f"{folder}/db", "-p", str(port), "-k", folder, "-c", "listen_addresses=127.0.0.1",
             "-c", "fsync=off"],
            **run,
        )  # fmt: skip
        try:
            ask = ["psql", "-h", "127.0.0.1", "-p", str(port), "-U", "prefect", "-d", "postgres", "-c"]
            subprocess.run(
                ["sh", "-c", 'for i in $(seq 100); do "$@" "select 1" && exit 0; sleep 0.2; done; exit 1', "sh", *ask],
                check=True, **run,
            )  # fmt: skip
            subprocess.run([*ask, "create database prefect"], check=True, **run)
            yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/prefect"
        finally:
            server.terminate()
            server.wait(60)
