"""Tar files whose bytes depend on nothing but their members: no clock, no owner, plain ustar headers."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from infra.errors import CorruptShardError, StorageError
from infra.storage import Storage

BLOCK = 512
CHUNK = 4 << 20


class TarWriter:
    """Write members to a local tar file.

    A full disk is no fault of the video at hand, so a failing write raises StorageError and nothing milder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - closed by __exit__
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror or error}") from error

    @property
    def offset(self) -> int:
        """Bytes written so far: where the next member's header will begin."""
        return self._tar.offset

    def add(self, name: str, data: bytes) -> None:
        """Append one member."""
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = len(data), 0o644, 0
        try:
            self._tar.addfile(info, io.BytesIO(data))
        except OSError as error:
            raise StorageError(f"cannot write {self._path}: {error.strerror or error}") from error

    def __enter__(self) -> TarWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._tar.close()
        except OSError as failed:
            raise StorageError(f"cannot write {self._path}: {failed.strerror or failed}") from failed


class TarReader:
    """A local tar, its members by name. Only plain files count: links and folders are refused."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._tar = tarfile.open(path, "r:")  # noqa: SIM115 - closed by __exit__
            self._members = {info.name: info for info in self._tar}
        except (tarfile.TarError, OSError) as error:
            raise CorruptShardError(f"{path} is not a readable tar: {error}") from error
        if not all(info.isreg() for info in self._members.values()):
            raise CorruptShardError(f"{path} holds members that are no plain files")

    @property
    def names(self) -> list[str]:
        """Names of the members, sorted."""
        return sorted(self._members)

    def read(self, name: str) -> bytes:
        """Return one member's bytes; CorruptShardError when it is absent or cut short."""
        info = self._members.get(name)
        if info is None:
            raise CorruptShardError(f"{self._path} has no member {name}")
        file = self._tar.extractfile(info)
        data = file.read() if file else b""
        if len(data) != info.size:
            raise CorruptShardError(f"{self._path}: member {name} is cut short")
        return data

    def __enter__(self) -> TarReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tar.close()


def unpack(data: bytes) -> dict[str, bytes]:
    """Return the members of a tar fragment (a sample's byte range) by name.

    Raises:
        CorruptShardError: the bytes are no whole ustar members of plain files.
    """
    members = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for info in tar:
                file = tar.extractfile(info)
                members[info.name] = file.read() if file else b""
                if not info.isreg() or len(members[info.name]) != info.size:
                    raise CorruptShardError(f"member {info.name!r} is cut short or no plain file")
    except (tarfile.TarError, EOFError) as error:
        raise CorruptShardError(f"the bytes are no tar members: {error}") from error
    return members


class StoredTar:
    """One pass over a tar in a store: its members in order, and at the end the digest of all its bytes.

    Memory is bounded by the largest member; nothing is copied to disk.
    """

    def __init__(self, storage: Storage, key: str) -> None:
        self._storage, self._key = storage, key
        self._size = storage.size(key)
        self._position = 0
        self._buffer = b""
        self._hash = hashlib.sha256()

    def members(self) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
        """Yield (header with its offset, bytes) of each member.

        Raises:
            CorruptShardError: the tar ends early or a header is damaged.
        """
        try:
            with tarfile.open(fileobj=self, mode="r|", bufsize=64 * BLOCK) as tar:  # type: ignore[call-overload]
                for info in tar:
                    file = tar.extractfile(info)
                    yield info, file.read() if file else b""
        except (tarfile.TarError, EOFError) as error:
            raise CorruptShardError(f"{self._key} is not a whole tar: {error}") from error

    def read(self, size: int) -> bytes:
        """Return the next bytes; for tarfile's stream mode."""
        while len(self._buffer) < size and self._position < self._size:
            count = min(CHUNK, self._size - self._position)
            chunk = self._storage.read_range(self._key, self._position, count)
            self._hash.update(chunk)
            self._position += count
            self._buffer += chunk
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def digest(self) -> str:
        """Read what is left and return the sha256 (hex) of the whole object."""
        while self._position < self._size:
            self._buffer = b""
            self.read(1)
        return self._hash.hexdigest()
