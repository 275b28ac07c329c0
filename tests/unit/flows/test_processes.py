"""Processes that stay: found again, not started twice, never confused with another's, ended whole."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from flows.deploy_config import DeployConfig, PoolConfig
from flows.processes import Keeper, Part, alone
from infra.config import validate_config
from infra.errors import ConfigError, ProjectError
from tests.support.processes import left_of, runs

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
FAMILY = [
    sys.executable, "-c",
    "import os, signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print(subprocess.Popen(['sleep', '600'], start_new_session=True).pid, flush=True); time.sleep(600)",
]  # fmt: skip


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Keeper]:
    """A keeper whose parts are gone after the test."""
    made = Keeper(tmp_path / "work")
    yield made
    for file in (tmp_path / "work").glob("*.json"):
        made.end(file.stem)


def test_a_part_is_started_once_and_found_by_another_command(keeper, tmp_path):
    part = Part("a", SLEEP, {})
    assert keeper.ensure(part)
    assert not keeper.ensure(part)
    process = Keeper(tmp_path / "work").running("a")
    assert process is not None
    process.kill()
    process.wait()
    assert keeper.running("a") is None
    assert keeper.ensure(part)


def test_a_number_that_another_process_has_now_is_left_alone(keeper, tmp_path):
    """Catches a `down` after a reboot that kills whoever has the number now."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "a.json").write_text(json.dumps({"pid": os.getpid(), "created": 1.0}))
    assert keeper.running("a") is None
    assert not keeper.end("a")
    (tmp_path / "work" / "b.json").write_text("half a rec")
    assert keeper.running("b") is None


def test_a_clock_that_is_set_changes_no_process(keeper, monkeypatch):
    """Catches a clock step after which `up` starts everything twice, and `down` leaves the first ones."""
    part = Part("a", SLEEP, {})
    keeper.ensure(part)
    before = psutil.boot_time()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: before + 3600)
    assert keeper.running("a") is not None
    assert not keeper.ensure(part)


def test_a_record_of_an_earlier_boot_is_not_ours(keeper, tmp_path, monkeypatch):
    """Catches a part taken for that of an earlier boot, where number and ticks are the same again."""
    keeper.ensure(Part("a", SLEEP, {}))
    (tmp_path / "boot").write_text("another")
    with monkeypatch.context() as patched:
        patched.setattr("flows.processes.BOOT_ID", tmp_path / "boot")
        assert keeper.running("a") is None
    assert keeper.running("a") is not None


def test_a_record_of_the_former_kind_is_understood_and_known_by_its_log(keeper, tmp_path):
    """Catches an upgrade, or a clock step before it, that forgets what runs."""
    keeper.ensure(Part("a", SLEEP, {}))
    keeper.ensure(Part("b", SLEEP, {}))
    record, process = tmp_path / "work" / "a.json", keeper.running("a")
    record.write_text(json.dumps({"pid": process.pid, "created": process.create_time() - 3600}))
    assert keeper.running("a") == process
    other = keeper.running("b").pid
    record.write_text(json.dumps({"pid": other, "created": 1.0}))
    assert keeper.running("a") is None
    record.write_text(json.dumps({"pid": process.pid, "created": process.create_time()}))
    (tmp_path / "work" / "a.log").unlink()
    assert keeper.running("a") == process


def test_what_another_serves_is_not_taken_for_ours(keeper, tmp_path):
    """Catches `up` that says "started" and then tells another house's server what to run."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        part = Part("a", SLEEP, {}, ready=lambda: True, address=("127.0.0.1", port), setting="some_port")
        with pytest.raises(ProjectError, match=rf"serves at 127.0.0.1:{port}; stop that, or set some_port to another"):
            keeper.ensure(part)
        assert not (tmp_path / "work" / "a.json").exists()
    assert keeper.ensure(part)
    with socket.create_server(("127.0.0.1", port)):  # as it does itself when it runs
        assert not keeper.ensure(part)


def test_a_part_ends_with_all_that_it_started(keeper, tmp_path, monkeypatch):
    """Catches workers' children that go on, also where the worker does not listen."""
    monkeypatch.setattr("flows.processes.GRACE_S", 1.0)
    monkeypatch.setattr("flows.processes.SAVE_S", 1.0)
    keeper.ensure(Part("a", FAMILY, {}, ready=lambda: (tmp_path / "work" / "a.log").stat().st_size > 0))
    child = psutil.Process(int((tmp_path / "work" / "a.log").read_text()))
    parent = keeper.running("a")
    assert keeper.end("a")
    assert not [p for p in (child, parent) if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


# A training that takes two seconds to save, and its worker, which tells it nothing and ends at its own SIGTERM.
SAVING = (
    "import signal, sys, time, pathlib; "
    "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(2), pathlib.Path('saved').touch(), sys.exit())); "
    "print('up', flush=True); time.sleep(600)"
)
WORKER = [
    sys.executable, "-c",
    f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {SAVING!r}]); time.sleep(600)",
]  # fmt: skip


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Part:
    """A worker whose training is under way when it is ready."""
    monkeypatch.setattr("flows.processes.GRACE_S", 0.5)
    monkeypatch.chdir(tmp_path)
    return Part("a", WORKER, {}, ready=lambda: (tmp_path / "work" / "a.log").stat().st_size > 0)


def test_what_a_part_was_doing_has_the_time_to_save(keeper, worker, caplog):
    """Catches a `down` that kills a training in the middle of its checkpoint, or waits without a word."""
    caplog.set_level(logging.INFO)
    keeper.ensure(worker)
    assert keeper.end("a")
    assert Path("saved").exists()
    assert "waiting up to 150 s for what a was doing" in caplog.text


@pytest.mark.parametrize("then", ["down", "up"])
def test_what_an_interrupted_down_left_saving_is_not_forgotten(keeper, worker, monkeypatch, then):
    """Catches "nothing ran" after a Ctrl-C, or a new worker, while the training still saves."""
    keeper.ensure(worker)
    process = keeper.running("a")
    family = [process, *process.children(recursive=True)]
    with monkeypatch.context() as patched:
        patched.setattr("flows.processes.SAVE_S", 0.5)
        patched.setattr("psutil.Process.kill", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            keeper.end("a")
    assert [runs(member.pid) for member in family] == [False, True]
    assert keeper.end("a") if then == "down" else keeper.ensure(worker)
    assert Path("saved").exists()
    assert not left_of(family, 0)
    assert keeper.end("a") == (then == "up")
    assert not keeper.end("a")


def _interrupt(process: psutil.Process) -> None:
    raise KeyboardInterrupt


def test_a_part_that_is_started_meanwhile_keeps_its_record(keeper, worker, tmp_path):
    """Catches a `down` that forgets what was started while it waited: nothing would ever end that."""
    keeper.ensure(worker)
    ending = threading.Thread(target=keeper.end, args=["a"])
    ending.start()
    while keeper.running("a"):
        time.sleep(0.05)
    (tmp_path / "work" / "a.json").unlink()
    other = Keeper(tmp_path / "work")
    other.ensure(worker)
    ending.join()
    assert other.running("a") is not None
    assert other.end("a")


def test_one_at_a_time_starts_and_ends(tmp_path, caplog):
    """Catches two `up`s that both start a server, and a lock that outlives who had it."""
    caplog.set_level(logging.INFO)
    done: list[str] = []

    def wait() -> None:
        with alone(tmp_path, wait=True):
            done.append("second")

    with alone(tmp_path, wait=False) as first, alone(tmp_path, wait=False) as second:
        assert (first, second) == (True, False)
        other = threading.Thread(target=wait)
        other.start()
        while "waiting for another" not in caplog.text:
            time.sleep(0.05)
        done.append("first")
    other.join()
    assert done == ["first", "second"]


def test_a_new_start_begins_a_new_log_and_the_last_few_are_kept(keeper, tmp_path):
    """Catches a start that deletes what tells why the part ended, or writes on into that; while it runs a log grows."""
    log = tmp_path / "work" / "a.log"
    for number in range(6):
        command = [sys.executable, "-c", f"import time; print({number}, flush=True); time.sleep(600)"]
        keeper.ensure(Part("a", command, {}, ready=lambda: log.read_text() != ""))
        process = keeper.running("a")
        process.kill()
        process.wait()
    logs = {path.name: path.read_text() for path in (tmp_path / "work").glob("a.log*")}
    assert logs == {"a.log": "5\n", "a.log.1": "4\n", "a.log.2": "3\n", "a.log.3": "2\n"}


def test_a_part_that_does_not_start_is_one_sentence_and_leaves_nothing(keeper):
    with pytest.raises(ProjectError, match=r"a does not start; .*a\.log tells why"):
        keeper.ensure(Part("a", [sys.executable, "-c", "raise SystemExit(3)"], {}, ready=lambda: False))
    with pytest.raises(ProjectError, match="b does not start"):
        keeper.ensure(Part("b", SLEEP, {}, ready=lambda: False, limit_s=0.5))
    time.sleep(0.2)
    assert keeper.running("b") is None


SECRETS = (
    "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "hf_token", "AWS_ACCESS_KEY_ID", "PREFECT_API_AUTH_STRING", "APIKEY",
    "API_KEYS", "MARLIN_WEBHOOK_URL", "PREFECT_SERVER_DATABASE_CONNECTION_URL", "AZURE_STORAGE_CONNECTION_STRING",
    "MARLIN_PASSPHRASE", "PGPASS", "SMTP_PASS", "PASS", "PASSWD", "MYSQL_PWD", "AUTH", "OAUTH2_CLIENT",
    "AUTHORIZATION", "GOOGLE_CREDENTIALS",
)  # fmt: skip
HARMLESS = (
    "GIT_AUTHOR_NAME", "AUTHORS", "CERT_AUTHORITY_FILE", "SSH_AUTH_SOCK", "TOKENIZERS_PARALLELISM", "KEYBOARD",
    "PGPASSFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_SHARED_CREDENTIALS_FILE", "RAY_AUTH_MODE", "HOST_PUBLIC_KEY",
    "BYPASS_CACHE", "HF_HUB_DISABLE_IMPLICIT_TOKEN", "PWD", "FTP_PASSIVE", "AWS_ENDPOINT_URL", "RAY_ADDRESS",
    "NO_PROXY",
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "is_secret"),
    [
        *[(name, "x", True) for name in SECRETS],
        *[(name, "x", False) for name in HARMLESS],
        ("HTTPS_PROXY", "http://user:pass@proxy:3128", True),
        ("HTTPS_PROXY", "http://user:p@ss@proxy:3128", True),
        ("HTTPS_PROXY", "http://user:pa/ss@proxy:3128", True),
        ("https_proxy", "user:password@proxy:3128", True),
        ("HTTPS_PROXY", "http://proxy:3128", False),
        ("MC_HOST_store", "http://user:pass@h", True),
        ("MLFLOW_TRACKING_URI", "https://h/x@y", False),
    ],
)
def test_a_secret_in_the_settings_is_refused_and_nothing_else(name, value, is_secret):
    """Catches keys in Prefect's database, where everybody reads them; and a plain variable that cannot be set."""
    settings = {"environment": {name: value}}
    if not is_secret:
        validate_config(DeployConfig, settings, where="the test")
        return
    with pytest.raises(ConfigError, match="looks like a secret"):
        validate_config(DeployConfig, settings, where="the test")


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ConfigError, match=r"ingest.out is other; set both to the same"):
        validate_config(DeployConfig, {"ingest": {"out": "other"}}, where="the test")
    pools = {"ingest_pool": {"name": "p"}, "train_pool": {"name": "p", "kind": "docker"}}
    with pytest.raises(ConfigError, match="share the name p and differ"):
        validate_config(DeployConfig, pools, where="the test")
    one = DeployConfig(ingest_pool=PoolConfig(name="p"), train_pool=PoolConfig(name="p"))
    assert len(one.pools) == 1


def test_a_part_that_would_be_started_differently_is_found_out(keeper):
    """Catches a sensor that watches the former sources while `up` says "runs"."""
    part = Part("a", SLEEP, {"A": "b"}, settings={"sources": ["one"]})
    assert not keeper.is_outdated(part)
    keeper.ensure(part)
    assert not keeper.is_outdated(part)
    for change in ({"command": [*SLEEP, "x"]}, {"environment": {"A": "c"}}, {"settings": {"sources": ["two"]}}):
        assert keeper.is_outdated(replace(part, **change))
    assert not keeper.has_moved(part)
    assert keeper.has_moved(replace(part, address=("127.0.0.1", 4201)))
    keeper.end("a")
    assert not keeper.is_outdated(replace(part, command=["x"]))
