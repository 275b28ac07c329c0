from __future__ import annotations

import hashlib
import io
import tarfile

import pyarrow.parquet as pq

from pipeline.dataset.format import manifest_key, shard_key, version_key, videos_key
from pipeline.dataset.reader import DatasetReader, open_dataset
from pipeline.dataset.units import Units
from pipeline.dataset.verify import verify_dataset
from pipeline.dataset.versions import publish_version


def test_a_whole_dataset_has_no_problem_and_every_unit_is_reported(small) -> None:
    """Bug caught: a check that always complains, or a unit that is skipped."""
    seen: list[str] = []
    assert verify_dataset(small, seen.append) == []
    assert seen == ["unit-one", "unit-two"]


def test_one_flipped_byte_in_a_clip_is_found(builder, small) -> None:
    """Bug caught: checking names and sizes alone."""
    data = bytearray(builder.storage.read(shard_key("unit-two")))
    data[data.index(b"mp4 of")] ^= 1
    builder.storage.write(shard_key("unit-two"), bytes(data))
    problems = verify_dataset(small)
    assert len(problems) == 1
    assert "unit-two" in problems[0]
    assert "sha256" in problems[0]


def test_truncated_absent_and_replaced_files_are_found_and_the_rest_is_still_checked(builder, small) -> None:
    """Bug caught: stopping at the first problem; treating a missing shard as nothing to check."""
    whole = builder.storage.read(shard_key("unit-one"))
    builder.storage.write(shard_key("unit-one"), whole[:-1024])
    builder.storage.write(videos_key("unit-two"), builder.storage.read(videos_key("unit-one")))
    problems = " | ".join(verify_dataset(small))
    assert "unit-one" in problems
    assert "truncated" in problems
    assert "unit-two" in problems
    assert "videos" in problems
    builder.storage.delete(shard_key("unit-one"))
    assert any("unit-one" in problem for problem in verify_dataset(small))
    builder.storage.delete(manifest_key("unit-two"))
    assert any("unit-two" in problem for problem in verify_dataset(small))


def _relist(builder, unit: str, **changes: object) -> DatasetReader:
    """Rewrite version 1 so that a unit's entry agrees with what was tampered with."""
    reader = open_dataset(builder.storage.uri)
    units = [entry.model_copy(update=changes) if entry.unit == unit else entry for entry in reader.version.units]
    builder.storage.delete(version_key(1))
    publish_version(builder.storage, reader.version.model_copy(update={"units": Units.of(units)}))
    return open_dataset(builder.storage.uri)


def _rewrite_tar(builder, unit: str, change) -> DatasetReader:
    """Replace a shard by one with other members, and make the version list its digest."""
    buffer, stored = io.BytesIO(), io.BytesIO(builder.storage.read(shard_key(unit)))
    with (
        tarfile.open(fileobj=stored) as source,
        tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as target,
    ):
        for name, data in change([(info.name, source.extractfile(info).read()) for info in source]):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            target.addfile(info, io.BytesIO(data))
    data = buffer.getvalue()
    builder.storage.write(shard_key(unit), data)
    return _relist(builder, unit, tar_sha256=hashlib.sha256(data).hexdigest(), tar_bytes=len(data))


def test_wrong_members_are_found_even_when_the_digest_agrees(builder, small) -> None:
    """Bug caught: trusting the checksum of a shard that was written wrong in the first place."""
    cases = {
        "ends before": lambda members: members[:-1],
        "where its end is due": lambda members: [*members, ("zzz.json", b"{}")],
        "is due": lambda members: members[3:] + members[:3],
        "region maps": lambda members: [(n, b"x" if n.endswith(".npy.gz") else d) for n, d in members],
        "damaged": lambda members: [(n, b"{}" if n.endswith(".json") else d) for n, d in members],
        "is empty": lambda members: [(n, b"" if n.endswith(".mp4") else d) for n, d in members],
    }
    original = builder.storage.read(shard_key("unit-one"))
    listed = builder.storage.read(version_key(1))
    for told, change in cases.items():
        problems = verify_dataset(_rewrite_tar(builder, "unit-one", change))
        assert any(told in problem for problem in problems), (told, problems)
        builder.storage.write(shard_key("unit-one"), original)
        builder.storage.write(version_key(1), listed)


def test_wrong_counts_and_offsets_are_found(builder, small) -> None:
    """Bug caught: a manifest whose byte ranges point elsewhere, on which the loader would fail in the night."""
    assert any(
        "9 clips" in text or "listed are 9" in text for text in verify_dataset(_relist(builder, "unit-one", clips=9))
    )
    table = pq.read_table(io.BytesIO(builder.storage.read(manifest_key("unit-two"))))
    shifted = table.set_column(table.schema.get_field_index("offset"), table.schema.field("offset"),
                               [[offset + 512 for offset in table["offset"].to_pylist()]])  # fmt: skip
    buffer = io.BytesIO()
    pq.write_table(shifted, buffer)
    builder.storage.write(manifest_key("unit-two"), buffer.getvalue())
    reader = _relist(builder, "unit-two", manifest_sha256=hashlib.sha256(buffer.getvalue()).hexdigest())
    assert any("lies at byte" in problem for problem in verify_dataset(reader))


def test_the_same_clip_in_two_units_is_found(builder, small) -> None:
    """Bug caught: a video ingested twice, which training would see twice."""
    reader = builder.publish(builder.unit("unit-three", {"d": [builder.clip("d")]}))
    assert any("more than once" in problem for problem in verify_dataset(reader))
