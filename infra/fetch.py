"""Fetch a file whose digest is known, from the first source that has it; wrong bytes never get their final name."""

from __future__ import annotations

import hashlib
import logging
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

from infra.errors import ProjectError, WeightsError
from infra.storage import open_storage

logger = logging.getLogger(__name__)
CHUNK = 1 << 20
TIMEOUT_S = 60.0


def fetch_file(name: str, sha256: str | None, sources: Sequence[str], into: Path) -> Path:
    """Return ``into/name`` with the given sha256, taking it from ``sources`` when it is not there yet.

    Args:
        name: file name; also what is looked for under each source.
        sha256: expected digest, 64 hexadecimal digits. A file with another one is refused. None takes what comes, where
            a publisher states no digest; who reads the file must then judge it.
        sources: folders, single files, ``s3://`` or ``http(s)://`` bases or full addresses, tried in order.
        into: folder that keeps the file.

    Raises:
        WeightsError: no source has the file with this digest; the sentence lists what each said and the cure.
    """
    target = into / name
    if target.is_file() and sha256 in (None, file_digest(target)):
        return target
    into.mkdir(parents=True, exist_ok=True)
    temporary = into / f".{name}.{uuid4().hex}.part"  # no other process writes to it
    said = []
    for source in sources:
        try:
            _copy(source, name, temporary)
            digest = file_digest(temporary)
            if sha256 in (None, digest):
                temporary.replace(target)
                logger.info("fetched %s from %s", name, source)
                return target
            said.append(f"{source}: sha256 is {digest[:12]}…, not {str(sha256)[:12]}…")
        except (OSError, ProjectError, urllib.error.URLError, ValueError) as error:
            said.append(f"{source}: {getattr(error, 'strerror', None) or error}")
        finally:
            temporary.unlink(missing_ok=True)
    tried = "; ".join(said) or "no source is configured"
    raise WeightsError(
        f"{name} could not be had ({tried}); put the file{f' with sha256 {sha256}' if sha256 else ''} into a folder "
        "and name that folder (or an s3:// or http(s):// mirror) in the config"
    )


def file_digest(path: Path) -> str:
    """Return the sha256 (hex) of a file, read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _copy(source: str, name: str, target: Path) -> None:
    if source.startswith(("http://", "https://")):
        address = source if source.rsplit("/", 1)[-1] == name else f"{source.rstrip('/')}/{name}"
        with urllib.request.urlopen(address, timeout=TIMEOUT_S) as answer, target.open("wb") as file:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
            if file.tell() != int(answer.headers.get("Content-Length") or file.tell()):
                raise OSError("the answer ended before its stated length")
        return
    if source.startswith("s3://"):
        open_storage(source).download(name, target)
        return
    path = Path(source)
    path = path / name if path.is_dir() else path
    target.write_bytes(path.read_bytes())
