"""Addresses that cannot be understood, as a list from elsewhere may hold them."""

from __future__ import annotations

import pytest

from infra.errors import FetchError
from infra.urls import shown_url, split_url, url_identity

HALF_AN_EMOJI = "\ud83d"


@pytest.mark.parametrize(
    "url",
    [
        "http://[::1/v.mp4",
        "https://h:99999/v.mp4",
        "https://h:80a/v.mp4",
        f"https://h/{HALF_AN_EMOJI}.mp4",
        f"https://h/v.mp4?title={HALF_AN_EMOJI}",
    ],
)
def test_an_address_that_cannot_be_understood_is_itself_and_refused_in_a_sentence(url: str) -> None:
    """Bug caught: a traceback for one bad line of a manifest; an address that no table can hold."""
    assert url_identity(url) == url
    shown_url(url).encode()
    with pytest.raises(FetchError, match="cannot be understood"):
        split_url(url)
