"""Places as sources name them: which kind each is, what of it may be shown, and what makes two of them the same."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, unquote, urlsplit

from infra.urls import shown_url, url_identity
from pipeline.places import FRAMES, printable

YOUTUBE = "youtube:"
UNKNOWN = "unknown:"
"""Begins the place of an entry of a manifest that is none of the addresses a manifest may hold."""

_ID = re.compile(r"[A-Za-z0-9_-]{11}")
_YOUTUBE_HOSTS = frozenset({"youtube.com", "www.youtube.com", "m.youtube.com", "www.youtube-nocookie.com"})


def is_web(place: str) -> bool:
    """Tell whether a place is an http(s) address."""
    return place.lower().startswith(("http://", "https://"))


def is_local(place: str) -> bool:
    """Tell whether a place is a file or a folder of frames of this machine."""
    return place.startswith(("/", "file:", FRAMES))


def youtube_id(text: str) -> str | None:
    """Return the 11 characters that name a video, from ``youtube:ID`` or an address of YouTube; None for others."""
    found: str | None = None
    if text.startswith(YOUTUBE):
        found = text.removeprefix(YOUTUBE)
    elif is_web(text):
        try:
            parts = urlsplit(text)
        except ValueError:
            return None
        if parts.hostname == "youtu.be":
            found = parts.path.strip("/")
        elif parts.hostname in _YOUTUBE_HOSTS:
            kind, _, rest = parts.path.strip("/").partition("/")
            found = rest if kind in ("shorts", "embed", "live", "v") else parse_qs(parts.query).get("v", [""])[0]
    return found if found and _ID.fullmatch(found) else None


def shown_place(place: str) -> str:
    """Return a place as it may be logged and stored: no user, password or query values, and valid UTF-8."""
    return shown_url(place) if is_web(place) else printable(place)


def place_identity(place: str) -> str:
    """Return what makes two places the same: signed addresses without their signature. May hold secrets: hash it."""
    return url_identity(place) if is_web(place) else place


def is_whole(shown: str) -> bool:
    """Tell whether a place as it is stored says all that makes it one place: no value of a query was left out of it."""
    return not is_web(shown) or not urlsplit(place_identity(shown)).query


def name_of_address(url: str) -> str:
    """Return ``host/path`` of an address, for people."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(an address that cannot be understood)"
    return printable(f"{parts.hostname or ''}{unquote(parts.path, errors='replace')}".rstrip("/"))
