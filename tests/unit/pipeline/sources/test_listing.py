"""What each kind of source lists, and what a list from elsewhere must not be able to do."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.config import dump_config
from infra.errors import ConfigError
from pipeline.config import IngestConfig
from pipeline.rows import ListedVideo
from pipeline.sources.addresses import is_local, shown_place, youtube_id
from pipeline.sources.layouts import Layouts
from pipeline.sources.listing import check_sources, list_sources, open_source
from pipeline.sources.s3 import etag_of
from tests.support.layouts import CelebClip, celebvhq, mosei

ROWS = [
    {"url": "https://h/a.mp4", "split": "val", "identity": "x", "name": "first", "smile": "1"},
    {"url": "s3://bucket/deep/b.mp4", "split": None, "identity": None, "name": None, "smile": None},
    {"url": "https://youtu.be/dQw4w9WgXcQ", "split": "", "identity": "", "name": "", "smile": "0"},
]


def _write(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".csv":
        lines = [",".join(rows[0]), *(",".join(cell or "" for cell in row.values()) for row in rows)]
        path.write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_manifests_own_columns_are_taken_as_such_and_others_are_labels(tmp_path: Path, ending: str) -> None:
    """Bug caught: an official split or a label lost on the way; empty cells that become labels."""
    manifest = _write(tmp_path / f"list.{ending}", ROWS)
    first, second, third = open_source(str(manifest), Layouts()).list()
    assert first == ListedVideo("https://h/a.mp4", "first", None, "address", {"smile": "1"}, "val", "x")
    assert (second.place, second.name, second.labels) == ("s3://bucket/deep/b.mp4", "deep/b.mp4", {})
    assert (third.place, third.split, third.identity) == ("youtube:dQw4w9WgXcQ", None, None)


def test_typed_labels_keep_their_types_and_what_json_cannot_hold_is_left_out(tmp_path: Path) -> None:
    """Bug caught: a number that comes back as text; NaN that breaks a later reader's JSON."""
    row = {"url": "https://h/a", "i": 3, "f": 0.5, "b": True, "nan": float("nan"), "deep": {"x": [1]}}
    (video,) = open_source(str(_write(tmp_path / "l.parquet", [row])), Layouts()).list()
    assert video.labels == {"i": 3, "f": 0.5, "b": True, "deep": '{"x": [1]}'}
    assert [type(value) for value in video.labels.values()] == [int, float, bool, str]


def test_a_text_manifest_is_one_address_a_line(tmp_path: Path) -> None:
    """Bug caught: comments and blank lines taken for videos."""
    (tmp_path / "list.txt").write_text("# mine\n\nhttps://h/a.mp4\n  https://h/b.mp4?t=secret  \n")
    videos = list(open_source(str(tmp_path / "list.txt"), Layouts()).list())
    assert [video.name for video in videos] == ["h/a.mp4", "h/b.mp4"]


@pytest.mark.parametrize(
    "entry", ["/etc/passwd", "file:/etc/passwd", "frames:/etc", "ftp://h/a", "../x.mp4", "staged:x"]
)
def test_a_manifest_cannot_name_files_of_this_machine(tmp_path: Path, entry: str) -> None:
    """Bug caught: a list from the internet that chooses which local files are read."""
    (tmp_path / "list.txt").write_text(f"{entry}\n")
    (video,) = open_source(str(tmp_path / "list.txt"), Layouts()).list()
    assert video.place.startswith("unknown:")
    assert not is_local(video.place)


def test_half_an_emoji_in_a_manifest_is_shown_as_an_escape(tmp_path: Path) -> None:
    """Bug caught: a row cut off in an emoji that ends the night in the plan, the split or the list of names."""
    half = "x \\ud83d"
    row = {"url": "https://h/a", "name": half, "identity": half, "fingerprint": half, "title": half, half: 1}
    (tmp_path / "list.jsonl").write_text(json.dumps(row).replace(r"\\ud83d", r"\ud83d"))
    (video,) = open_source(str(tmp_path / "list.jsonl"), Layouts()).list()
    assert video == ListedVideo("https://h/a", half, None, half, {"title": half, half: 1}, None, half)


@pytest.mark.parametrize("bucket", ["s3://", "s3:///a.mp4", "s3://bucket", "s3://bucket/"])
def test_an_object_without_a_bucket_or_a_key_is_no_address(tmp_path: Path, bucket: str) -> None:
    """Bug caught: one row without a bucket that ends the night as a mistake in the settings."""
    (tmp_path / "list.txt").write_text(f"{bucket}\n")
    (video,) = open_source(str(tmp_path / "list.txt"), Layouts()).list()
    assert video.place == f"unknown:{bucket}"


@pytest.mark.parametrize(
    ("fingerprint", "etag"),
    [
        ("etag:12:abc", "abc"),
        ("etag:12:a:b", "a:b"),
        ("etag:abc", None),
        ("etag:", None),
        ("etag:12:", None),
        ("v2", None),
        (None, None),
    ],
)
def test_a_manifests_fingerprint_may_look_like_an_etag(fingerprint: str | None, etag: str | None) -> None:
    """Bug caught: a fingerprint of somebody's own, beginning as ours do, that ends the night."""
    assert etag_of(fingerprint) == etag


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "link\nhttps://h/a\n", "no column url"),
        ("a.csv", "url,split\nhttps://h/a,training\n", "split 'training' is none of"),
        ("a.csv", "url\nhttps://h/a,more\n", "more cells"),
        ("a.csv", "url\n" + "x" * 200_000, "field larger"),
        ("a.csv", "", "no column url"),
        ("a.jsonl", '{"url": "https://h/a"}\n{"address": 1}\n', "line 2"),
        ("a.jsonl", "no json\n", "Expecting value"),
        ("a.jsonl", "[" * 100_000, "recursion"),
        ("a.parquet", "no parquet", "Parquet"),
        ("a.txt", b"\xff\xfe\x00", "decode"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_one_sentence(
    tmp_path: Path, name: str, text: str | bytes, words: str
) -> None:
    """Bug caught: a traceback, or half a list taken for the whole."""
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=words) as caught:
        list(open_source(str(tmp_path / name), Layouts()).list())
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_prefix_is_listed_over_all_pages_and_no_further(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bug caught: only the first thousand objects; ``videos2/`` listed with ``videos``; text and hidden names too."""
    import boto3

    client = boto3.client("s3")
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "4")  # the server runs in this process
    for number in range(12):
        client.put_object(Bucket=bucket, Key=f"videos/{number:04d}.mp4", Body=b"x" * (number % 3))
    for key in ("videos2/a.mp4", "videos/readme.md", "videos/.hidden/b.mp4", "videos/sub/", 'videos/sub/ü "q".MOV'):
        client.put_object(Bucket=bucket, Key=key, Body=b"1")
    videos = list(open_source(f"s3://{bucket}/videos", Layouts()).list())
    assert len(videos) == 13
    assert videos[1].name == "0001.mp4"
    assert videos[1].bytes == 1
    assert etag_of(videos[1].fingerprint) == client.head_object(Bucket=bucket, Key="videos/0001.mp4")["ETag"].strip('"')
    assert videos[-1].name == 'sub/ü "q".MOV'
    (single,) = open_source(f"s3://{bucket}/videos2/a.mp4", Layouts()).list()
    assert single.name == "a.mp4"


def test_a_bucket_that_is_not_there_is_one_sentence(bucket: str) -> None:
    """Bug caught: boto3's traceback for a misspelt bucket."""
    with pytest.raises(ConfigError, match=r"cannot list .*: NoSuchBucket"):
        list(open_source(f"s3://{bucket}-absent/videos", Layouts()).list())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("youtube:dQw4w9WgXcQ", "dQw4w9WgXcQ"),
        ("https://www.youtube.com/watch?v=dQw4w9WgXcQ&t=3", "dQw4w9WgXcQ"),
        ("https://youtu.be/dQw4w9WgXcQ?si=x", "dQw4w9WgXcQ"),
        ("https://m.youtube.com/shorts/dQw4w9WgXcQ", "dQw4w9WgXcQ"),
        ("https://www.youtube.com/playlist?list=PL1", None),
        ("https://youtube.com.evil.example/watch?v=dQw4w9WgXcQ", None),
        ("youtube:../../etc/passwd", None),
        ("youtube:--exec=touch", None),
    ],
)
def test_youtube_is_known_by_its_ids_and_hosts(text: str, expected: str | None) -> None:
    """Bug caught: another site's address given to yt-dlp; an id that is an option or a path."""
    assert youtube_id(text) == expected


def test_sources_are_listed_in_the_order_in_which_they_are_named(tmp_path: Path) -> None:
    """Bug caught: a kind of source that is left out when it is mixed with others."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.mp4").write_bytes(b"x")
    (tmp_path / "list.txt").write_text("https://h/c.mp4\n")
    sources = (str(tmp_path / "list.txt"), "youtube:dQw4w9WgXcQ", str(tmp_path / "folder"), "https://h/d.mp4")
    listed = list_sources(IngestConfig(sources=sources, out=str(tmp_path / "d")))
    assert [video.name for video in listed] == ["h/c.mp4", "youtube:dQw4w9WgXcQ", "a.mp4", "h/d.mp4"]


def test_labels_whose_videos_are_not_there_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Bug caught: half a download taken for the dataset, in silence."""
    clips = {"a_0": CelebClip("a"), "a_1": CelebClip("a"), "b_0": CelebClip("b"), "c_0": CelebClip("c")}
    celebvhq(tmp_path / "celeb", clips, {"cut/b_0.mp4": b"cut", "raw/a.mp4": b"uncut, both clips of a"})
    mosei(tmp_path / "mosei", {"a": [(0.0,) * 7] * 3}, {"a_1": b"video"})
    mosei(tmp_path / "whole", {"a": [(0.0,) * 7]}, {"a_0": b"video"})
    sources = tuple(str(tmp_path / name) for name in ("celeb", "mosei", "whole"))
    list(list_sources(IngestConfig(sources=sources, out=str(tmp_path / "d")), warn=True))
    segments, clips_told = (record.message for record in caplog.records)
    assert clips_told.endswith("celebvhq_info.json has labels of 4 videos, and 1 of them are not here")
    assert segments.endswith("CMU_MOSEI_Labels.csd has labels of 3 videos, and 2 of them are not here")


def test_a_dataset_inside_its_bucket_source_is_refused() -> None:
    """Bug caught: a dataset that is ingested itself the next night."""
    with pytest.raises(ConfigError, match="inside its source"):
        check_sources(IngestConfig(sources=("s3://b/videos",), out="s3://b/videos/d"))
    check_sources(IngestConfig(sources=("s3://b/videos",), out="s3://b/videos-d"))


def test_settings_that_are_written_down_hold_no_secret() -> None:
    """Bug caught: the password of a source in every run's record."""
    cfg = IngestConfig(sources=("https://me:word@h/a.mp4?token=abc", "/plain?x=1.mp4", "s3://b/k?v=1"))
    text = dump_config(cfg)
    assert "word" not in text
    assert "abc" not in text
    assert "/plain?x=1.mp4" in text
    assert "s3://b/k?v=1" in text
    assert cfg.sources[0].endswith("abc")
    assert shown_place("/a?b=c") == "/a?b=c"
