"""Make the bytes of listed videos readable for workers, and know each video by them.

What is on this machine stays where it is. Everything else is fetched into ``staged/<sha256 of the bytes>`` of the
dataset's own store, which is swept when the plan that needs it is done.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
import traceback
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from infra.download import WebClient
from infra.errors import FetchError, ProjectError, RefusedError, TooLargeError, TransientError
from infra.partial import Deadline, Fetched, claimed, forget_partial, sweep_partials
from infra.s3 import fetch_object, s3_client
from infra.storage import Storage
from infra.urls import shown_text
from pipeline.config import FetchConfig
from pipeline.known import PASSING, Known
from pipeline.rows import ListedVideo, RejectReason, SourceVideo
from pipeline.sources.addresses import YOUTUBE, is_local, is_web, place_identity, shown_place
from pipeline.sources.content import content_digest, cut_digest
from pipeline.sources.local import STAGED, STAGED_PREFIX
from pipeline.sources.s3 import etag_of
from pipeline.sources.seen import Seen, Sight
from pipeline.sources.standin import origin_digest, standin_digest
from pipeline.sources.youtube import fetch_youtube

logger = logging.getLogger(__name__)

_FAILURES = (
    (RefusedError, RejectReason.REFUSED),
    (TooLargeError, RejectReason.TOO_LARGE),
    (FetchError, RejectReason.FETCH_FAILED),
)
_REMEMBER_EVERY = 64
"""Videos after which what was seen is written down, so that a killed staging goes on there."""


@dataclass(frozen=True, slots=True)
class Staged:
    """What became of one place: the videos in it, or how many of them may not return."""

    videos: tuple[SourceVideo, ...]
    removed: int = 0


class _NoBytes(Exception):
    """The bytes of a place cannot be had, for a reason that makes a reject."""

    def __init__(self, reason: RejectReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Stager:
    """Reads and fetches what is due, several places at a time.

    Args:
        storage: the dataset; fetched bytes go there.
        cfg: bounds of fetching.
        seen: what was read before; what is read now is added.
        known: what the newest version has; copies of its videos are not stored again.
        removed: digests that must not return; their bytes are deleted at once, and not remembered. Bytes that cannot be
            had, at a place that held some of them, are left out as well.
        retry: reasons whose rejects are staged again.
    """

    def __init__(
        self,
        storage: Storage,
        cfg: FetchConfig,
        seen: Seen,
        known: Known,
        removed: Collection[str] = (),
        retry: Collection[RejectReason] = (),
    ) -> None:
        self._storage, self._cfg, self._seen = storage, cfg, seen
        self._known, self._removed, self._retry = known, removed, retry
        self._cache = fetch_cache(cfg)
        self._stored = set(storage.list(STAGED_PREFIX))
        self._storing = threading.Lock()
        self._stop = threading.Event()
        self._web: Any = None
        self._s3: Any = None

    def stage(self, due: Iterable[ListedVideo]) -> Generator[Staged]:
        """Yield one result for each place, in the order in which they are ready.

        Raises:
            StorageError: the disk or the store refuses; what was staged so far is remembered.
            ConfigError: yt-dlp is needed and not installed.
        """
        groups: dict[str, list[ListedVideo]] = {}
        for video in due:
            groups.setdefault(_group(video), []).append(video)
        if any(not is_local(videos[0].place) for videos in groups.values()):
            sweep_partials(self._cache, self._cfg.cache_mb * 1_000_000)
        if any(videos[0].place.startswith("s3://") for videos in groups.values()):
            self._s3 = s3_client(self._cfg)
        if any(is_web(videos[0].place) for videos in groups.values()):
            self._web = WebClient(self._cfg, self._stop)
        with contextlib.ExitStack() as cleaning:
            cleaning.callback(self._seen.flush)
            if self._web is not None:
                cleaning.callback(self._web.close)
            pool = cleaning.enter_context(ThreadPoolExecutor(self._cfg.parallel, thread_name_prefix="stage"))
            cleaning.callback(self._stop.set)  # first: whatever ends this, no fetch goes on for long
            results = _bounded(pool, 2 * self._cfg.parallel, self._place, groups.values())
            for number, (videos, result) in enumerate(results, start=1):
                sight, staged = result
                if sight is not None:
                    self._seen.add(videos[0], sight)
                elif staged.videos and staged.videos[0].reject not in PASSING:
                    self._seen.add_failure(videos[0], staged.videos[0].digest)
                if number % _REMEMBER_EVERY == 0:
                    self._seen.flush()
                yield staged

    def _place(self, videos: Sequence[ListedVideo]) -> tuple[Sight | None, Staged]:
        """Stage one place; runs in a thread."""
        place = videos[0].place
        try:
            sight, path = self._local(videos[0]) if is_local(place) else self._remote(videos)
        except _NoBytes as error:
            if standin_digest(place) in self._removed or any(
                origin_digest(shown_place(place), video.name) in self._removed for video in videos
            ):
                return None, Staged((), len(videos))
            detail = str(error)[:500]
            logger.warning("%s: %s (%s)", shown_place(place), error.reason, detail)
            failed = replace(
                source_video(videos[0], Sight("", 0), ""),
                digest=standin_digest(place), cut=None, content="", reject=error.reason, detail=detail,
            )  # fmt: skip
            return None, Staged((failed,))
        if sight.content in self._removed:
            return None, Staged((), len(videos))
        made = [source_video(video, sight, path) for video in videos]
        kept = tuple(video for video in made if video.digest not in self._removed)
        return sight, Staged(kept, len(made) - len(kept))

    def _local(self, video: ListedVideo) -> tuple[Sight, str]:
        sight = self._seen.get(video)
        if (
            sight is None
            or self._known.rejects.get(cut_digest(sight.content, video.cut, video.boxes)) == RejectReason.UNREADABLE
        ):
            try:
                with _own_failures_reject(video):
                    sight = Sight(*content_digest(video.place))
            except OSError as error:
                reason = f"cannot be opened: {error.strerror or error}"
                raise _NoBytes(RejectReason.UNREADABLE, reason) from error
        return sight, video.place

    def _remote(self, videos: Sequence[ListedVideo]) -> tuple[Sight, str]:
        """Fetch, unless the bytes are in the store; put them there, unless no video of theirs needs work."""
        sight = self._seen.get(videos[0])
        if sight is None or STAGED_PREFIX + sight.content not in self._stored:
            partial = self._cache / hashlib.sha256(_group(videos[0]).encode("utf-8", "surrogatepass")).hexdigest()
            with self._claimed(partial):
                fetched = self._fetch(videos[0], partial)
                sight = Sight(fetched.sha256, fetched.bytes)
                if self._is_wanted(sight, videos):
                    self._store(fetched)
                forget_partial(partial)
        return sight, f"{STAGED}{STAGED_PREFIX}{sight.content}"

    def _is_wanted(self, sight: Sight, videos: Sequence[ListedVideo]) -> bool:
        digests = {cut_digest(sight.content, video.cut, video.boxes) for video in videos} - set(self._removed)
        return sight.content not in self._removed and not all(
            self._known.is_settled(digest, self._retry) for digest in digests
        )

    def _store(self, fetched: Fetched) -> None:
        key = STAGED_PREFIX + fetched.sha256
        if key not in self._stored:
            self._storage.upload(fetched.path, key)
            with self._storing:
                self._stored.add(key)

    @contextlib.contextmanager
    def _claimed(self, partial: Path) -> Iterator[None]:
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(claimed(partial, self._deadline()))
            except TransientError as error:
                raise _NoBytes(RejectReason.UNREACHABLE, str(error)) from error
            yield

    def _fetch(self, video: ListedVideo, partial: Path) -> Fetched:
        try:
            with _own_failures_reject(video):
                return self._fetched(video, partial)
        except _NoBytes:
            forget_partial(partial)
            raise
        except TransientError as error:
            raise _NoBytes(RejectReason.UNREACHABLE, str(error)) from error  # its bytes so far are kept
        except FetchError as error:
            forget_partial(partial)
            reason = next(reason for kind, reason in _FAILURES if isinstance(error, kind))
            raise _NoBytes(reason, str(error)) from error

    def _fetched(self, video: ListedVideo, partial: Path) -> Fetched:
        place = video.place
        if video.bytes is not None and video.bytes > self._cfg.max_mb * 1_000_000:
            raise TooLargeError(f"{video.bytes} bytes, and fetch.max_mb allows {self._cfg.max_mb * 1_000_000}")
        if is_web(place):
            return self._web.fetch(place, partial)
        if place.startswith("s3://"):
            return fetch_object(self._s3, place, etag_of(video.fingerprint), partial, self._cfg, self._deadline())
        if place.startswith(YOUTUBE):
            return fetch_youtube(place.removeprefix(YOUTUBE), partial, self._cfg, self._deadline())
        raise RefusedError("only http(s)://, s3://bucket/key and youtube: addresses in UTF-8 are taken from a manifest")

    def _deadline(self) -> Deadline:
        return Deadline(self._cfg.max_video_s, self._stop)


def fetch_cache(cfg: FetchConfig) -> Path:
    """Return the folder for files in the making."""
    if cfg.cache:
        return Path(cfg.cache)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "marlin" / "fetch"


@contextlib.contextmanager
def _own_failures_reject(video: ListedVideo) -> Iterator[None]:
    """Turn our own mistake (or an extractor's) into the one video's reject.

    What a person must mend passes, or each video of the night would be lost for it: the project's errors, the disk,
    the memory.
    """
    try:
        yield
    except (ProjectError, OSError, MemoryError):
        raise
    except Exception as error:
        trace = "".join(traceback.format_tb(error.__traceback__))  # the message may hold a secret address
        logger.error("%s: %s\n%s", shown_place(video.place), type(error).__name__, trace)
        raise _NoBytes(RejectReason.INTERNAL, shown_text(f"{type(error).__name__}: {error}")) from error


def _group(video: ListedVideo) -> str:
    """What videos share that are read together: the same bytes at the same place."""
    return f"{place_identity(video.place)}\0{video.fingerprint}"


def source_video(video: ListedVideo, sight: Sight, path: str) -> SourceVideo:
    """Return a listed video with what was found at its place; ``path`` is where workers read the bytes."""
    digest = cut_digest(sight.content, video.cut, video.boxes)
    return SourceVideo(
        digest,
        path,
        video.name,
        sight.bytes,
        labels=video.labels,
        split=video.split,
        identity=video.identity,
        cut=video.cut,
        place=shown_place(video.place),
        content="" if digest == sight.content else sight.content,
    )


def _bounded(
    pool: ThreadPoolExecutor, most: int, work: Callable[[Any], Any], items: Iterable[Any]
) -> Iterator[tuple[Any, Any]]:
    """Yield (item, result) as they come; at most ``most`` are in flight, and after a failure no more are begun."""
    rest = iter(items)
    running: dict[Future[Any], Any] = {}
    try:
        while True:
            for item in islice(rest, most - len(running)):
                running[pool.submit(work, item)] = item
            if not running:
                return
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(done), done.result()
    finally:
        for future in running:
            future.cancel()
