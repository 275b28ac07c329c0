"""Encoders, who is live, and why: numbered objects in a folder or bucket that are created once and never changed.

``versions/000001.json`` is an encoder that was made, ``weights/<sha256>.safetensors`` its file, and
``decisions/000001.json`` what was decided about one. The last decision that is no refusal says who is live.
``attempt.json`` is the one candidate that is being made, so that a training that died goes on with what it began with,
and ``abandoned/000001.json`` one that a person gave up.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from infra.errors import ConfigError, StorageError
from infra.fetch import file_digest
from infra.storage import Storage, open_storage

ATTEMPT_KEY = "attempt.json"
Action = Literal["promote", "rollback", "refuse"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


RowT = TypeVar("RowT", bound=_Frozen)


class Encoder(_Frozen):
    """An encoder that was made. ``parent`` is the version that its training began with, None where it began elsewhere.

    ``clips`` counts those of the dataset version; ``licences`` are of all that stands behind it, as ``part: licence``.
    """

    number: int
    created: str
    sha256: str
    run: str
    dataset: str
    dataset_version: int
    clips: int
    parent: int | None
    licences: tuple[str, ...]

    @property
    def key(self) -> str:
        """Where the registry keeps its weights."""
        return f"weights/{self.sha256}.safetensors"

    @property
    def attempt(self) -> Attempt:
        """What it was made from."""
        return Attempt(dataset=self.dataset, dataset_version=self.dataset_version, clips=self.clips, parent=self.parent)


class Decision(_Frozen):
    """What was decided about ``version``, and why in one sentence; ``previous`` was live before."""

    number: int
    at: str
    action: Action
    version: int
    previous: int | None
    why: str
    scores: dict[str, float] = {}


class Attempt(_Frozen):
    """The candidate in the making: on which dataset version, from which encoder."""

    dataset: str
    dataset_version: int
    clips: int
    parent: int | None


class Abandoned(_Frozen):
    """A candidate that a person gave up, and why in one sentence; it is not begun again."""

    number: int
    at: str
    attempt: Attempt
    why: str


class Registry:
    """The registry at a folder or ``s3://bucket/prefix``; an empty place is an empty registry.

    Every method reads the store anew, so that two processes may use one registry.
    """

    def __init__(self, uri: str) -> None:
        self.storage: Storage = open_storage(uri)

    def encoders(self) -> list[Encoder]:
        """Return all encoders, oldest first; StorageError where a record is damaged or missing."""
        return self._rows("versions", Encoder)

    def encoder(self, number: int) -> Encoder:
        """Return one encoder; ConfigError where there is none."""
        for found in self.encoders():
            if found.number == number:
                return found
        raise ConfigError(f"{self.storage.uri} has no version {number}; `marlin registry list` shows what it has")

    def decisions(self) -> list[Decision]:
        """Return all decisions, oldest first; errors as ``encoders``."""
        return self._rows("decisions", Decision)

    def decided(self) -> list[Encoder]:
        """Return the encoders of which something was decided, oldest first."""
        numbers = {decision.version for decision in self.decisions()}
        return [encoder for encoder in self.encoders() if encoder.number in numbers]

    def live(self) -> Encoder | None:
        """Return the encoder that is live, None before the first promotion."""
        number = live_version(self.decisions())
        return None if number is None else self.encoder(number)

    def register(self, weights: Path, made: Callable[[int, str, str], Encoder]) -> Encoder:
        """Keep ``weights``, and return its record; the same bytes are registered once.

        Args:
            weights: file to copy into the registry.
            made: (number, time, sha256) → the record.

        Raises:
            StorageError: a record is missing: its number must not be given to other weights.
        """
        digest = file_digest(weights)
        is_kept = False
        while True:
            known = self.encoders()
            for encoder in known:
                if encoder.sha256 == digest:
                    return encoder
            number = len(known) + 1
            if any(decision.version >= number for decision in self.decisions()):
                raise self._missing("versions", number)
            row = made(number, _now(), digest)
            if not is_kept:
                self.storage.upload(weights, row.key)
                is_kept = True
            if self._add("versions", number, row):
                return row

    def decide(self, action: Action, version: int, why: str, scores: dict[str, float] | None = None) -> Decision:
        """Write down what becomes of a version; ConfigError where there is no such version."""
        while (row := self.decide_after(self.decisions(), action, version, why, scores)) is None:
            pass
        return row

    def decide_after(
        self,
        history: Sequence[Decision],
        action: Action,
        version: int,
        why: str,
        scores: dict[str, float] | None = None,
    ) -> Decision | None:
        """As ``decide``; None, and nothing is written, where something was decided since ``history`` was read."""
        self.encoder(version)
        row = Decision(
            number=len(history) + 1, at=_now(), action=action, version=version, previous=live_version(history), why=why,
            scores=scores or {},
        )  # fmt: skip
        return row if self._add("decisions", row.number, row) else None

    def rollback(self, why: str) -> Decision:
        """Make live what was live before the present one; ConfigError where nothing was (see ``rollback_target``)."""
        row = None
        while row is None:
            history = self.decisions()
            before = rollback_target(history)
            if before is None:
                raise ConfigError(
                    f"{self.storage.uri}: no version was live before the present one that has not been rolled back "
                    "itself; promote one instead"
                )
            row = self.decide_after(history, "rollback", before, why)
        return row

    def weights(self, encoder: Encoder, folder: Path) -> Path:
        """Return a local file with an encoder's weights under ``folder``, fetched and checked if need be.

        Raises:
            StorageError: the registry's file is absent or has other bytes.
        """
        path = folder / f"{encoder.sha256[:16]}.safetensors"
        if not path.exists() or file_digest(path) != encoder.sha256:
            self.storage.download(encoder.key, path)
            if file_digest(path) != encoder.sha256:
                path.unlink()
                raise StorageError(f"{self.storage.uri}/{encoder.key} has other bytes than were registered; restore it")
        return path

    def attempt(self) -> Attempt | None:
        """Return the candidate in the making."""
        if not self.storage.exists(ATTEMPT_KEY):
            return None
        return self._read(ATTEMPT_KEY, Attempt)

    def begin(self, attempt: Attempt) -> None:
        """Write down what is begun; it stands until ``end``."""
        self.storage.write(ATTEMPT_KEY, attempt.model_dump_json(indent=1).encode())

    def end(self) -> None:
        """Forget the candidate in the making: it was decided on, or cannot be made any more."""
        self.storage.delete(ATTEMPT_KEY)

    def abandoned(self) -> list[Abandoned]:
        """Return what was given up, oldest first; errors as ``encoders``."""
        return self._rows("abandoned", Abandoned)

    def abandon(self, why: str) -> Abandoned:
        """Give up the candidate in the making; ConfigError where there is none."""
        attempt = self.attempt()
        if attempt is None:
            raise ConfigError(f"{self.storage.uri}: no candidate is in the making, so there is none to abandon")
        row = None
        while row is None or not self._add("abandoned", row.number, row):
            row = Abandoned(number=len(self.abandoned()) + 1, at=_now(), attempt=attempt, why=why)
        self.end()
        return row

    def _add(self, folder: str, number: int, row: _Frozen) -> bool:
        return self.storage.put_if_absent(_key(folder, number), row.model_dump_json(indent=1).encode())

    def _rows(self, folder: str, kind: type[RowT]) -> list[RowT]:
        """Return records 1 … n. The listing of a folder may pass over one that is being added; it is asked for."""
        names = (re.fullmatch(rf"{folder}/(\d{{6}})\.json", key) for key in self.storage.list(f"{folder}/"))
        listed = {int(name[1]) for name in names if name}
        rows = []
        for number in range(1, max(listed, default=0) + 1):
            if number not in listed and not self.storage.exists(_key(folder, number)):
                raise self._missing(folder, number)
            rows.append(self._read(_key(folder, number), kind))
        return rows

    def _missing(self, folder: str, number: int) -> StorageError:
        return StorageError(f"{self.storage.uri}/{_key(folder, number)} is missing; restore it from a copy")

    def _read(self, key: str, kind: type[RowT]) -> RowT:
        try:
            return kind.model_validate_json(self.storage.read(key))
        except ValidationError as error:
            raise StorageError(f"{self.storage.uri}/{key} is damaged; restore it from a copy") from error


def _key(folder: str, number: int) -> str:
    return f"{folder}/{number:06d}.json"


def live_version(decisions: Sequence[Decision]) -> int | None:
    """Return the number of the version that a history of decisions leaves live."""
    return next((row.version for row in reversed(decisions) if row.action != "refuse"), None)


def rollback_target(decisions: Sequence[Decision]) -> int | None:
    """Return the version that was live last before the present one, None where there is none.

    One that a rollback has unseated is passed over, until it is promoted again.
    """
    line: list[int] = []  # what was live, oldest first, without what was unseated
    for row in decisions:
        if row.action == "rollback" and line:
            unseated = line[-1]
            line = [version for version in line if version != unseated]
        if row.action != "refuse" and line[-1:] != [row.version]:
            line.append(row.version)
    return next((version for version in reversed(line[:-1]) if version != line[-1]), None)


def learnt_from(encoders: Sequence[Encoder], dataset: str, versions: set[int]) -> list[Encoder]:
    """Return the encoders that were trained on one of some versions of a dataset, or from such an encoder."""
    found: dict[int, Encoder] = {}
    for encoder in encoders:  # a parent is registered before its children
        direct = encoder.dataset == dataset and encoder.dataset_version in versions
        if direct or encoder.parent in found:
            found[encoder.number] = encoder
    return list(found.values())


def ancestors(encoders: Sequence[Encoder], number: int) -> list[Encoder]:
    """Return an encoder and those that it continues from, newest first."""
    known = {encoder.number: encoder for encoder in encoders}
    line = []
    at: int | None = number
    while at in known:
        line.append(known.pop(at))
        at = line[-1].parent
    return line


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
