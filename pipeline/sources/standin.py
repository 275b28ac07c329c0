"""Digests of places: what stands in for the digest of bytes that could not be had, and for their absence."""

from __future__ import annotations

import hashlib

from pipeline.sources.addresses import is_whole, place_identity


def standin_digest(place: str) -> str:
    """Return what stands in for the digest of bytes that could not be had: a function of where they should be."""
    return hashlib.sha256(b"no bytes:" + place_identity(place).encode("utf-8", "surrogatepass")).hexdigest()


def origin_digest(shown: str, name: str) -> str:
    """Return what tells that the bytes of a place were taken down; other bytes may come from there and are welcome.

    While they cannot be had, nobody can tell whose they are, and nothing is said of them.

    Args:
        shown: the place as it is stored (``shown_place``).
        name: the video's name, which counts where the stored place is not all of it.
    """
    origin = place_identity(shown) + ("" if is_whole(shown) else f"\0{name}")
    return hashlib.sha256(b"taken down from:" + origin.encode("utf-8", "surrogatepass")).hexdigest()
