"""Addresses on the web: which are meant, what of them may be shown, and what of them is only a key to the door."""

from __future__ import annotations

import base64
import re
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from infra.errors import FetchError

_SIGNATURES = (
    ({"signature", "awsaccesskeyid", "expires"}, {"signature", "awsaccesskeyid", "expires"}),
    ({"signature", "key-pair-id"}, {"signature", "key-pair-id", "expires", "policy"}),
    ({"sig", "sv"}, {"sig", "sv", "se", "sp", "spr", "sr", "st", "skoid", "sktid", "skt", "ske", "sks", "skv"}),
)
"""Signed addresses of S3 (version 2), CloudFront and Azure: where the first are all there, the second only open a door.
A parameter is never dropped for its name alone: ``?key=1`` and ``?key=2`` may be two videos."""
_SIGNED_FAMILIES = re.compile(r"x-(amz|goog)-.*")


def split_url(url: str) -> SplitResult:
    """Take an http(s) address apart.

    Raises:
        FetchError: another scheme, no host, a port out of range, control characters, or what is no UTF-8.
    """
    try:
        url.encode()
        parts = urlsplit(url)
        parts.port  # noqa: B018 -- raises where it is no number
    except ValueError:
        raise FetchError("the address cannot be understood") from None
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
        raise FetchError("the address is not http:// or https:// with a host")
    if any(ord(character) < 33 or ord(character) == 127 for character in url):
        raise FetchError("the address has spaces or control characters; write them as %20 …")
    return parts


def shown_url(url: str) -> str:
    """Return an address as it may be logged and stored: no user, no password, no value of any query parameter.

    What cannot be understood is not shown at all.
    """
    try:
        url.encode()
        parts = urlsplit(url)
        host = _host(parts)
    except ValueError:
        return "(an address that cannot be understood)"
    query = "&".join(f"{quote(name)}=…" for name, _ in parse_qsl(parts.query, keep_blank_values=True))
    return urlunsplit((parts.scheme, host, parts.path, query, ""))


def shown_text(text: object) -> str:
    """Return somebody's words in one line of UTF-8, without the secrets of the addresses in them."""
    shown = re.sub(r"https?://\S+", lambda match: shown_url(match[0]), str(text))
    return " ".join(shown.split()).encode("utf-8", "backslashreplace").decode()


def url_identity(url: str) -> str:
    """Return an address without what only opens the door, so that tonight's signed address is yesterday's video.

    What cannot be understood is itself. It still may hold secrets under other names: use it hashed.
    """
    try:
        return _without_keys(url)
    except ValueError:
        return url


def basic_auth(parts: SplitResult) -> str | None:
    """Return the Authorization header's value for an address with ``user:password@``, None without."""
    if parts.username is None:
        return None
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def _without_keys(url: str) -> str:
    parts = urlsplit(url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    names = {name.lower() for name, _ in query}
    opening = {name for mark, all_of_it in _SIGNATURES if mark <= names for name in all_of_it}
    query = [
        (name, value)
        for name, value in query
        if name.lower() not in opening and not _SIGNED_FAMILIES.fullmatch(name.lower())
    ]
    return urlunsplit((parts.scheme.lower(), _host(parts).lower(), parts.path, urlencode(query), ""))


def _host(parts: SplitResult) -> str:
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return f"{host}:{parts.port}" if parts.port else host
