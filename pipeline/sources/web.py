"""A single video at an http(s) address."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.rows import ListedVideo
from pipeline.sources.addresses import name_of_address

UNCHANGING = "address"
"""Fingerprint of what is known by its address alone: other bytes are expected under another address."""


@dataclass(frozen=True, slots=True)
class WebSource:
    """One address. It is not asked while listing: what was fetched from it once is not fetched again."""

    url: str

    def list(self) -> Iterator[ListedVideo]:
        """See Source."""
        yield ListedVideo(self.url, name_of_address(self.url), fingerprint=UNCHANGING)
