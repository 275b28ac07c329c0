"""One position, one sample: the right clip, the right frames with their own regions, the right number hidden."""

import numpy as np
import pytest

from infra.errors import ConfigError, CorruptShardError, DatasetError, TransientError
from model.train_config import MaskConfig
from tests.support.clip_dataset import frame_number

STREAM = 60


def test_only_clips_fit_for_pretraining_of_the_split_are_read(open_numbered):
    """Catches short clips (20 and 31 frames) and validation clips that slip into training."""
    train, val = open_numbered("train"), open_numbered("val")
    assert (train.clips, val.clips) == (4, 2)
    assert not {train.load(i).key for i in range(4)} & {val.load(i).key for i in range(2)}
    assert len({train.load(i).key for i in range(4)}) == 4


def test_frames_are_a_window_at_stride_two_and_regions_belong_to_them(open_numbered):
    """Catches regions shifted against frames: both carry their own frame number."""
    source = open_numbered()
    starts = set()
    for position in range(STREAM):
        sample = source.load(position)
        numbers = [frame_number(image) for image in sample.clip_THWC.numpy()]
        assert numbers == list(range(sample.first_frame, sample.first_frame + 32, 2))
        assert [4 * (int(bits) - 1) for bits in sample.regions_Thw[:, 0, 0]] == numbers[::2]
        starts.add(sample.first_frame)
    assert len(starts) > 5  # the start is random, and reaches far into long clips
    assert max(starts) == 32


def test_a_sample_is_a_function_of_seed_and_position_alone(open_numbered):
    """Catches hidden state: reading order, or the global generators, changing a window or a mask."""
    one, other = open_numbered(), open_numbered()
    forward = [one.load(position) for position in range(12)]
    np.random.seed(1)
    backward = {position: other.load(position) for position in reversed(range(12))}
    for position, sample in enumerate(forward):
        assert sample.key == backward[position].key
        assert (sample.clip_THWC == backward[position].clip_THWC).all()
        assert (sample.is_masked_L == backward[position].is_masked_L).all()
    reseeded = [open_numbered(seed=1).load(position) for position in range(12)]
    assert any((a.is_masked_L != b.is_masked_L).any() for a, b in zip(forward, reseeded, strict=True))


def test_the_same_clip_gets_another_window_and_mask_in_another_epoch(open_numbered):
    """Catches a seed that leaves the position out."""
    source = open_numbered()
    seen: dict[str, set] = {}
    for position in range(STREAM):
        sample = source.load(position)
        seen.setdefault(sample.key, set()).add(sample.is_masked_L.numpy().tobytes())
    assert all(len(masks) > 10 for masks in seen.values())


@pytest.mark.parametrize("strategy", ["fasking", "fasking_opposite", "random", "tube", "frame"])
def test_every_strategy_leaves_156_of_1568_tokens_visible(open_numbered, strategy):
    """Catches a mask that hides a wrong number of tokens: batches would not be rectangular."""
    sample = open_numbered(mask=MaskConfig(strategy=strategy)).load(3)
    assert sample.is_masked_L.shape == (1568,)
    assert int((~sample.is_masked_L).sum()) == 156


def test_smaller_images_are_resized_and_their_regions_coarsened(open_numbered):
    sample = open_numbered(overrides={"image_size": 112}).load(0)
    assert sample.clip_THWC.shape == (16, 112, 112, 3)
    assert sample.regions_Thw.shape == (8, 7, 7)
    assert sample.is_masked_L.shape == (8 * 7 * 7,)
    assert frame_number(sample.clip_THWC[0].numpy()) == sample.first_frame


def test_flipping_mirrors_about_half_of_the_clips(open_numbered):
    """Numbered frames are symmetric, so the mirrored region sets tell: bits 2↔3 and 4↔5 trade places."""
    plain, flipping = open_numbered(), open_numbered(flip=True)
    pairs = [(plain.load(i).regions_Thw, flipping.load(i).regions_Thw) for i in range(STREAM)]
    assert STREAM / 5 < sum(bool((a != b).any()) for a, b in pairs) < STREAM


@pytest.mark.parametrize("what", ["manifest", "read_clip"])
def test_a_read_that_fails_is_tried_again_and_then_raised_never_skipped(what, open_numbered, monkeypatch):
    """Catches the usual 'take another clip instead', and a manifest, the first thing read of a unit, asked for once."""
    monkeypatch.setattr("model.data.source.BACKOFF_S", 0.001)
    source = open_numbered(read_attempts=3)
    good, calls = getattr(source.reader, what), []

    def failing(*place):
        calls.append(place)
        if len(calls) < failures:
            raise CorruptShardError("the store sent half")
        return good(*place)

    monkeypatch.setattr(source.reader, what, failing)
    failures = 3
    assert source.load(0).key
    assert len(calls) == 3
    calls.clear()
    failures = 100
    with pytest.raises(CorruptShardError, match="after 3 attempts"):
        source.load(0)


def test_a_store_that_gave_up_is_not_asked_again(open_numbered, monkeypatch):
    """Catches retries of retries: a store asks again itself, and half a minute of that four times is two minutes."""
    source, calls = open_numbered(read_attempts=3), []

    def failing(unit: str, row: int):
        calls.append(row)
        raise TransientError("cannot read s3://b/k (after 7 attempts)")

    monkeypatch.setattr(source.reader, "read_clip", failing)
    with pytest.raises(TransientError, match=r"unit \w+, row \d: cannot read s3://b/k"):
        source.load(0)
    assert len(calls) == 1


def test_a_split_without_clips_and_a_senseless_ratio_are_refused_before_any_work(open_numbered):
    with pytest.raises(DatasetError, match="'test'"):
        open_numbered("test")
    with pytest.raises(ConfigError, match=r"mask\.ratio"):
        open_numbered(mask=MaskConfig(ratio=0.9999))


def test_windows_longer_than_the_shortest_clip_may_be_are_refused_before_any_work(open_numbered):
    """Catches a rank that dies in mid-run of the first clip of 32 frames: training clips here have 32 to 64."""
    sentence = "32 frames at stride 2 reach over 63 frames .* only 32; take model.overrides.frames 16 or less"
    with pytest.raises(ConfigError, match=sentence):
        open_numbered(overrides={"frames": 32})
    assert open_numbered(overrides={"frames": 16}).clips == 4


def test_samples_are_the_same_with_any_cache(open_numbered):
    """Catches a window cut from the wrong place of a held clip, a mirrored clip that is held, another draw."""
    plain = open_numbered(flip=True, overrides={"image_size": 112})
    one_clip = 64 * 112 * 112 * 3
    for cache_bytes in (1, one_clip, 100 * one_clip):
        cached = open_numbered(flip=True, overrides={"image_size": 112}, cache_bytes=cache_bytes)
        for position in range(24):
            ours, theirs = cached.load(position), plain.load(position)
            assert (ours.key, ours.first_frame) == (theirs.key, theirs.first_frame)
            assert (ours.clip_THWC == theirs.clip_THWC).all()
            assert (ours.regions_Thw == theirs.regions_Thw).all()
            assert (ours.is_masked_L == theirs.is_masked_L).all()
