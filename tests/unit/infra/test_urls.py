"""Addresses as a list from elsewhere may hold them: shown without secrets, compared, refused where senseless."""

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


def test_secrets_are_neither_shown_nor_part_of_what_a_signed_address_means() -> None:
    """Bug caught: a password in a log; every signed address new each night; two videos taken for one."""
    signed = "https://me:word@Host.example:8443/a%20b.mp4?X-Amz-Signature=abc&X-Amz-Date=1&v=2#part"
    assert shown_url(signed) == "https://host.example:8443/a%20b.mp4?X-Amz-Signature=…&X-Amz-Date=…&v=…"
    assert url_identity(signed) == url_identity(signed.replace("abc", "xyz").replace("word", "other"))
    assert url_identity(signed) != url_identity(signed.replace("v=2", "v=3"))
    for name in ("key", "e", "sig", "token", "policy", "expires"):
        assert url_identity(f"https://h/x?{name}=1") != url_identity(f"https://h/x?{name}=2")
    azure = "https://h/x?sv=1&sig={}&se=2"
    assert url_identity(azure.format("a")) == url_identity(azure.format("b"))
    assert "word" not in shown_url("http://me:word@[bad/")
