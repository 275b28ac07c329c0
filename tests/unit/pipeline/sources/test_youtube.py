"""yt-dlp itself, against a site on loopback: a page with a video in it, as its generic extractor reads them."""

from __future__ import annotations

import builtins
import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.errors import ConfigError, FetchError, TooLargeError, TransientError
from infra.partial import Deadline
from pipeline.config import FetchConfig, YoutubeConfig
from pipeline.sources.youtube import YoutubeSource, fetch_youtube
from tests.support.web_server import Page, WebServer, web_server

pytest.importorskip("yt_dlp", reason="yt-dlp (extra `youtube`) is not installed")
ID = "dQw4w9WgXcQ"
BODY = b"\x00\x00\x00\x20ftypisom" + bytes(200_000)


@pytest.fixture
def site() -> Iterator[WebServer]:
    with web_server() as server:
        page = f'<html><head><title>x</title></head><body><video src="{server.url}/files/a.mp4"></video></body></html>'
        server.pages = {
            f"/watch/{ID}": Page(page.encode(), headers={"Content-Type": "text/html"}),
            "/files/a.mp4": Page(BODY, headers={"Content-Type": "video/mp4"}),
        }
        yield server


def _cfg(site: WebServer, **more: Any) -> FetchConfig:
    address = f"{site.url}/watch/{{id}}"
    return FetchConfig(youtube=YoutubeConfig(address=address, format="b"), backoff_s=0, timeout_s=5, **more)


def _fetch(cfg: FetchConfig, path: Path) -> str:
    fetched = fetch_youtube(ID, path, cfg, Deadline(cfg.max_video_s))
    assert fetched.bytes == path.stat().st_size
    return fetched.sha256


def test_a_video_is_fetched_through_its_page(site: WebServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Bug caught: options that yt-dlp does not know, a file under another name, addresses in the log."""
    caplog.set_level(logging.DEBUG)
    assert _fetch(_cfg(site), tmp_path / "deep" / "100%") == hashlib.sha256(BODY).hexdigest()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["100%"]
    assert "/files/" not in caplog.text
    (listed,) = YoutubeSource(ID).list()
    assert (listed.place, bool(listed.fingerprint)) == (f"youtube:{ID}", True)


def test_a_broken_download_goes_on_where_it_stopped(site: WebServer, tmp_path: Path) -> None:
    """Bug caught: each dropped connection costs the whole film."""
    site.pages["/files/a.mp4"].break_after, site.pages["/files/a.mp4"].breaks = 100_000, 3
    assert _fetch(_cfg(site), tmp_path / "v") == hashlib.sha256(BODY).hexdigest()
    assert any("range" in headers for path, headers in site.asked if path == "/files/a.mp4")


def test_what_fails_is_told_apart(site: WebServer, tmp_path: Path) -> None:
    """Bug caught: a video that is gone asked for every night; a busy site taken for one that is gone."""
    video = site.pages.pop(f"/watch/{ID}")
    with pytest.raises(FetchError, match="404"):
        _fetch(_cfg(site), tmp_path / "v")
    assert site.count(f"/watch/{ID}") == 1
    site.pages[f"/watch/{ID}"] = Page(status=503)
    with pytest.raises(TransientError, match="503"):
        _fetch(_cfg(site, attempts=2), tmp_path / "v")
    site.pages[f"/watch/{ID}"] = video
    site.pages["/files/a.mp4"].body = bytes(1_000_001)
    with pytest.raises(TooLargeError):
        _fetch(_cfg(site, max_mb=1), tmp_path / "v")


def test_only_youtubes_own_extractors_are_used_unless_another_site_is_named(site: WebServer, tmp_path: Path) -> None:
    """Bug caught: an address that makes yt-dlp read whatever one of its thousand extractors can reach."""
    from pipeline.sources.youtube import _options

    options = _options(tmp_path / "v", FetchConfig(), Deadline(1))
    from yt_dlp import YoutubeDL
    from yt_dlp.utils import DownloadError

    with YoutubeDL(options) as client, pytest.raises(DownloadError, match="No suitable extractor"):
        client.extract_info(f"{site.url}/watch/{ID}", download=True)
    assert site.asked == []


def test_without_the_extra_one_sentence_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bug caught: an ImportError in the middle of the night."""
    real = builtins.__import__

    def no_yt_dlp(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("yt_dlp"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_yt_dlp)
    with pytest.raises(ConfigError, match=r"marlin-system\[youtube\]"):
        fetch_youtube(ID, tmp_path / "v", FetchConfig(), Deadline(1))
