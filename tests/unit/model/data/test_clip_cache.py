"""The cache holds what was used last and never more than it may."""

import numpy as np

from model.data.clip_cache import ClipCache, DecodedClip


def clip(frames: int) -> DecodedClip:
    return DecodedClip(np.zeros((frames, 10, 10, 3), np.uint8), np.zeros((1, 28, 28), np.uint16), f"{frames}")


def test_the_clip_used_longest_ago_goes_first_and_the_bound_holds():
    """Catches a cache that grows with the dataset, or forgets in the order of arrival."""
    cache = ClipCache(10 * 300)
    cache.put("a", 0, clip(4))
    cache.put("a", 1, clip(4))
    assert cache.get("a", 0) is not None
    cache.put("b", 0, clip(4))
    assert (cache.get("a", 1), cache.held_bytes) == (None, 8 * 300)
    assert cache.get("a", 0) is not None


def test_a_clip_larger_than_the_cache_is_not_held_and_drives_nothing_out():
    cache = ClipCache(5 * 300)
    cache.put("a", 0, clip(5))
    cache.put("a", 1, clip(6))
    assert cache.get("a", 1) is None
    assert cache.get("a", 0) is not None
