"""Videos of YouTube, through yt-dlp (optional extra ``youtube``)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.download import PASSING_STATUS, Passing, attempted
from infra.errors import ConfigError, FetchError, StorageError, TooLargeError, TransientError
from infra.fetch import file_digest
from infra.partial import Deadline, Fetched
from infra.urls import shown_text
from pipeline.config import FetchConfig
from pipeline.rows import ListedVideo
from pipeline.sources.addresses import YOUTUBE


@dataclass(frozen=True, slots=True)
class YoutubeSource:
    """One video by its id. YouTube's bytes may differ from day to day, its videos do not: an id is fetched once."""

    id: str

    def list(self) -> Iterator[ListedVideo]:
        """See Source."""
        yield ListedVideo(YOUTUBE + self.id, YOUTUBE + self.id, fingerprint="id")


def fetch_youtube(video: str, path: Path, cfg: FetchConfig, deadline: Deadline) -> Fetched:
    """Fetch a video into ``path``, going on from the bytes that an earlier attempt left.

    yt-dlp's extractors are those of YouTube alone unless ``fetch.youtube.address`` names another site, so no answer
    can send it elsewhere; it makes its own connections, past the pace and the checks of addresses.

    Raises:
        ConfigError: yt-dlp is not installed.
        TooLargeError: it has more bytes than allowed.
        FetchError: there is no such video, or it may not be seen.
        TransientError: it fails in a way that may pass.
        StorageError: the local disk refuses.
    """
    try:
        from yt_dlp import YoutubeDL
        from yt_dlp.utils import YoutubeDLError
    except ImportError as error:
        raise ConfigError("youtube: needs yt-dlp; install it with pip install 'marlin-system[youtube]'") from error
    options = _options(path, cfg, deadline)

    def work() -> Fetched:
        try:
            with YoutubeDL(options) as client:
                client.extract_info(cfg.youtube.address.format(id=video), download=True)
        except YoutubeDLError as error:
            raise _sorted(error) from error
        except OSError as error:
            raise StorageError(f"cannot keep {path} while it is fetched ({error.strerror or error})") from error
        if not path.is_file():  # max_filesize skips a file without an error
            raise TooLargeError(f"more bytes than fetch.max_mb allows ({cfg.max_mb} MB)")
        return Fetched(path, file_digest(path), path.stat().st_size)

    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return attempted(work, cfg, deadline)


def _options(path: Path, cfg: FetchConfig, deadline: Deadline) -> dict[str, Any]:
    def watch(progress: dict[str, Any]) -> None:
        if progress.get("downloaded_bytes", 0) > cfg.max_mb * 1_000_000:
            raise TooLargeError(f"more bytes than fetch.max_mb allows ({cfg.max_mb} MB)")
        deadline.check()

    own_site = cfg.youtube.address == type(cfg.youtube)().address
    return {
        "outtmpl": {"default": str(path).replace("%", "%%")},
        "format": cfg.youtube.format,
        "allowed_extractors": ["youtube"] if own_site else ["generic", "html5"],
        "noplaylist": True,
        "playlist_items": "1",
        "continuedl": True,
        "overwrites": False,
        "max_filesize": cfg.max_mb * 1_000_000,
        "socket_timeout": cfg.timeout_s,
        "retries": 0,
        "fragment_retries": cfg.attempts,
        "extractor_retries": 0,
        "file_access_retries": 0,
        "fixup": "never",
        "cachedir": False,
        "quiet": True,
        "noprogress": True,
        "no_warnings": True,
        "color": "never",
        "progress_hooks": [watch],
        "logger": _Silent(),
    }


class _Silent:
    """yt-dlp's log: it shows whole addresses, and what matters is raised."""

    def debug(self, message: str) -> None:
        """Say nothing."""

    info = warning = error = debug


def _sorted(error: Any) -> Exception:
    """Turn yt-dlp's error into ours: what may pass, and what will not."""
    from yt_dlp.networking.exceptions import HTTPError, TransportError

    text = shown_text(str(error).removeprefix("ERROR: "))[:300]
    for cause in _causes(error):
        if isinstance(cause, TooLargeError | TransientError):
            return cause
        if isinstance(cause, HTTPError):
            return Passing(text) if cause.status in PASSING_STATUS or cause.status >= 500 else FetchError(text)
        if isinstance(cause, TransportError | TimeoutError | ConnectionError):
            return Passing(text)
    return Passing(text) if "Got error" in text else FetchError(text)  # a broken download has no error of its own


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what led to it; yt-dlp keeps that in places of its own."""
    seen: list[BaseException] = []
    rest = [error]
    while rest:
        one = rest.pop(0)
        if isinstance(one, BaseException) and one not in seen:
            seen.append(one)
            yield one
            info = getattr(one, "exc_info", None) or (None, None)
            rest += [info[1], getattr(one, "cause", None), one.__cause__, one.__context__]
