"""``marlin sensor``: list the sources again and again, and say when something has come.

It keeps nothing on disk: after a start it announces what it finds once, and ingestion knows what it has. So a new
name of known bytes wakes ingestion, which then does nothing.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable

from infra.errors import ProjectError
from pipeline.config import IngestConfig
from pipeline.sources.listing import list_sources

logger = logging.getLogger(__name__)

Announce = Callable[[int], bool]


class Sensor:
    """What the sources held when they were last announced (16 bytes a video).

    Args:
        cfg: settings of ingestion; its sources are watched.
        announce: called with the number of new videos; False when nobody heard it, and it is said again.
    """

    def __init__(self, cfg: IngestConfig, announce: Announce) -> None:
        self._cfg = cfg
        self._announce = announce
        self._announced: frozenset[bytes] = frozenset()
        self._before: frozenset[bytes] = frozenset()

    def look(self) -> int:
        """List the sources once and announce what is new and held still between two looks; return how many."""
        now = frozenset(
            hashlib.blake2b(f"{video.place}\n{video.fingerprint}".encode(), digest_size=16).digest()
            for video in list_sources(self._cfg)
            if video.fingerprint is not None  # else it is being written at this moment
        )
        fresh = (now & self._before) - self._announced
        self._before = now
        if not fresh or not self._announce(len(fresh)):
            return 0
        self._announced = now
        return len(fresh)

    def watch(self, poll_s: float, stop: threading.Event) -> None:
        """Look every ``poll_s`` seconds until ``stop``; a source that cannot be listed is said once and asked again."""
        said = ""
        while not stop.wait(poll_s):
            try:
                found = self.look()
            except ProjectError as error:
                if str(error) != said:
                    logger.warning("%s; the sensor goes on trying", error)
                said = str(error)
                continue
            said = ""
            if found:
                logger.info("%d new videos announced", found)
