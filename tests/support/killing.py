"""Kill -9 a writer of a dataset just before its n-th write; what was half written stays under a temporary name."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from infra.storage import LocalStorage, Storage, open_storage
from pipeline.dataset.compact import compact_dataset
from pipeline.dataset.remove import remove_videos
from pipeline.dataset.vacuum import vacuum_dataset
from pipeline.reparse import reparse as reparse_dataset

WRITES = ("write", "put_if_absent", "upload", "delete")

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__])


def compact(storage: Storage, scratch: Path, **settings: Any) -> None:
    compact_dataset(storage, scratch, **settings)


def vacuum(storage: Storage, scratch: Path, **settings: Any) -> None:
    vacuum_dataset(storage, **settings)


def remove(storage: Storage, scratch: Path, **settings: Any) -> None:
    remove_videos(storage, settings["videos"], scratch, runs=settings.get("runs", ()))


def reparse(storage: Storage, scratch: Path, **settings: Any) -> None:
    reparse_dataset(settings["cfg"], storage=storage)


def killed_at(action: Callable[..., None], uri: str, number: int, scratch: Path, **settings: Any) -> bool:
    """Run an action of this module on the store and kill it before write ``number``, from 1; False when it ended."""
    aws = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    child = _context.Process(target=_run, args=(action, uri, number, scratch, settings, aws))
    child.start()
    child.join(60)
    assert child.exitcode in (0, -signal.SIGKILL), f"exit code {child.exitcode}"
    return child.exitcode != 0


def contents(storage: Storage) -> dict[str, bytes]:
    """Every object of a store; when a version was made is left out of it."""
    found = {}
    for key in storage.list():
        data = storage.read(key)
        if key.startswith("versions/") and key.endswith(".json"):
            data = json.dumps({name: value for name, value in json.loads(data).items() if name != "created"}).encode()
        if key != ".lock":
            found[key] = data
    return found


def copy_store(source: Storage, uri: str) -> Storage:
    """Make a store that holds what another one holds, and nothing else."""
    target = open_storage(uri)
    if isinstance(target, LocalStorage):
        shutil.rmtree(uri, ignore_errors=True)
        shutil.copytree(source.uri, uri)  # keeps times, and does not wait for the disk
        return target
    for key in list(target.list()):
        target.delete(key)
    for key in source.list():
        target.write(key, source.read(key))
    return target


def _run(
    action: Callable[..., None], uri: str, number: int, scratch: Path, settings: dict[str, Any], aws: dict[str, str]
) -> None:
    os.environ.update(aws)
    storage = open_storage(uri)
    _arm(storage, number)
    scratch.mkdir(exist_ok=True)
    action(storage, scratch, **settings)


def _arm(storage: Storage, number: int) -> None:
    count = 0

    def armed(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            nonlocal count
            count += 1
            if count == number:
                if isinstance(storage, LocalStorage) and method.__name__ != "delete":
                    (Path(storage.uri) / ".tmp-half").write_bytes(b"half of it")
                os.kill(os.getpid(), signal.SIGKILL)
            return method(*args)

        return call

    for name in WRITES:
        setattr(storage, name, armed(getattr(storage, name)))
