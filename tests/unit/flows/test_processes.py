"""Processes that stay: found again, not started twice, never confused with another's, ended whole."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from flows.deploy_config import DeployConfig, PoolConfig
from flows.processes import Keeper, Part
from infra.config import validate_config
from infra.errors import ConfigError, ProjectError

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


def test_what_a_part_was_doing_has_the_time_to_save(keeper, tmp_path, monkeypatch, caplog):
    """Catches a `down` that kills a training in the middle of its checkpoint, or waits without a word."""
    monkeypatch.setattr("flows.processes.GRACE_S", 0.5)
    caplog.set_level(logging.INFO)
    saving = (
        "import signal, sys, time, pathlib; "
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(2), pathlib.Path('saved').touch(), sys.exit())); "
        "print('up', flush=True); time.sleep(600)"
    )
    starts = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {saving!r}]); time.sleep(600)"
    monkeypatch.chdir(tmp_path)
    ready = lambda: (tmp_path / "work" / "a.log").stat().st_size > 0  # noqa: E731
    keeper.ensure(Part("a", [sys.executable, "-c", starts], {}, ready=ready))
    assert keeper.end("a")
    assert (tmp_path / "saved").exists()
    assert "waiting up to 150 s for what a was doing" in caplog.text


def test_a_new_start_begins_a_new_log_and_the_last_few_are_kept(keeper, tmp_path):
    """Catches a log that grows until the disk is full."""
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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, "x") for name in ("AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "hf_token", "AWS_ACCESS_KEY_ID")],
        *[
            (name, "x")
            for name in ("PREFECT_API_AUTH_STRING", "MARLIN_WEBHOOK_URL", "PREFECT_SERVER_DATABASE_CONNECTION_URL")
        ],
        ("HTTPS_PROXY", "http://user:pass@proxy:3128"),
        ("HTTPS_PROXY", "http://user:p@ss@proxy:3128"),
    ],
)
def test_a_secret_in_the_settings_is_refused(name, value):
    """Catches keys in Prefect's database, where everybody who sees the page reads them."""
    with pytest.raises(ConfigError, match="looks like a secret"):
        validate_config(DeployConfig, {"environment": {name: value}}, where="the test")
    harmless = {"AWS_ENDPOINT_URL": "http://x", "HTTPS_PROXY": "http://p:3128/a@b", "RAY_AUTH_MODE": "token"}
    validate_config(DeployConfig, {"environment": harmless}, where="it")


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ConfigError, match=r"ingest.out is other; set both to the same"):
        validate_config(DeployConfig, {"ingest": {"out": "other"}}, where="the test")
    pools = {"ingest_pool": {"name": "p"}, "train_pool": {"name": "p", "kind": "docker"}}
    with pytest.raises(ConfigError, match="share the name p and differ"):
        validate_config(DeployConfig, pools, where="the test")
    one = DeployConfig(ingest_pool=PoolConfig(name="p"), train_pool=PoolConfig(name="p"))
    assert len(one.pools) == 1
