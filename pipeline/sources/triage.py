"""Which of the listed videos must be read at all: a pure function of what is listed, seen, known and removed."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from pipeline.known import Known
from pipeline.rows import ListedVideo, RejectReason
from pipeline.sources.content import cut_digest
from pipeline.sources.seen import Seen
from pipeline.sources.standin import standin_digest


@dataclass(frozen=True, slots=True)
class Triage:
    """Listed videos: ``due`` ones to stage, digests of those that are ``settled``, and how many are ``removed``.

    ``again`` of those that are due have an outcome already.
    """

    due: tuple[ListedVideo, ...]
    settled: tuple[str, ...]
    removed: int
    again: int

    @property
    def listed(self) -> int:
        """All of them."""
        return len(self.due) + len(self.settled) + self.removed


def triage(
    listed: Iterable[ListedVideo],
    seen: Seen,
    known: Known,
    removed: Collection[str] = (),
    retry: Collection[RejectReason] = (),
) -> Triage:
    """Tell the videos that need work from those that need none, without reading one.

    Bytes that could not be had are due again when what the source says of them (size, ETag, fingerprint) has changed.
    """
    due: list[ListedVideo] = []
    settled: list[str] = []
    gone = again = 0
    for video in listed:
        sight = seen.get(video)
        digest = cut_digest(sight.content, video.cut, video.boxes) if sight else standin_digest(video.place)
        if digest in removed or (sight and sight.content in removed):
            gone += 1
        elif known.is_settled(digest, retry) and (sight or seen.could_not_be_had(video)):
            settled.append(digest)
        else:
            due.append(video)
            again += digest in known.rejects
    return Triage(tuple(due), tuple(settled), gone, again)
