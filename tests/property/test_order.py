"""Laws of the reading order: nothing lost, nothing twice, the same batches for any number of ranks."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import ConfigError, DatasetError
from model.data.order import ClipOrder, assign, clip_seed, permutation

counts_lists = st.lists(st.integers(0, 7), min_size=1, max_size=12).filter(any)


@given(counts=counts_lists, seed=st.integers(0, 2**31), group=st.integers(1, 5), epoch=st.integers(0, 3))
@settings(deadline=None, max_examples=60)
def test_an_epoch_holds_every_clip_exactly_once(counts, seed, group, epoch):
    """Catches clips lost or doubled at the edges of shuffle groups, and empty shards that shift their neighbours."""
    order = ClipOrder(counts, seed, group)
    seen = [order[position] for position in range(epoch * order.clips, (epoch + 1) * order.clips)]
    assert {address.epoch for address in seen} == {epoch}
    wanted = [(shard, clip) for shard, count in enumerate(counts) for clip in range(count)]
    assert sorted((address.shard, address.clip) for address in seen) == wanted


@given(counts=counts_lists, seed=st.integers(0, 1000), cuts=st.lists(st.sampled_from([1, 2, 4]), min_size=2))
@settings(deadline=None, max_examples=40)
def test_changing_the_number_of_ranks_between_steps_changes_no_batch(counts, seed, cuts):
    """First + rest == whole, for worlds such as 1 → 2 → 4 → 1; also with fewer shards than ranks."""
    batch = 4
    order = ClipOrder(counts, seed)
    whole = [order[position] for position in range(len(cuts) * batch)]
    resumed = []
    for step, world in enumerate(cuts):
        fresh = ClipOrder(counts, seed)  # each world is a new process
        for rank in range(world):
            resumed += [fresh[position] for position in assign(step, rank, world, batch)]
    assert resumed == whole


@given(step=st.integers(0, 10**7), world=st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_the_slices_of_all_ranks_are_the_global_batch(step, world):
    """Catches an off-by-one between ranks, which would repeat one clip and skip another."""
    positions = [position for rank in range(world) for position in assign(step, rank, world, 12)]
    assert positions == list(range(12 * step, 12 * step + 12))


def test_a_batch_that_does_not_divide_is_refused_with_the_cure():
    with pytest.raises(ConfigError, match="multiple of 3"):
        assign(0, 0, 3, 4)


def test_epochs_and_seeds_differ_and_repeat_exactly():
    """Catches an epoch number that never reaches the shuffle (every epoch the same order)."""
    counts = [5, 9, 2, 8]

    def epoch(number: int, seed: int = 0) -> list[tuple[int, int]]:
        order = ClipOrder(counts, seed)
        return [order[24 * number + place][1:] for place in range(24)]

    assert epoch(0) == epoch(0)
    assert epoch(0) != epoch(1)
    assert epoch(0) != epoch(0, seed=1)


def test_random_access_equals_reading_in_order():
    """Catches a stale cache of groups."""
    order, jumping = ClipOrder([40] * 50, 3, group_shards=4), ClipOrder([40] * 50, 3, group_shards=4)
    positions = np.random.default_rng(0).integers(0, 3 * order.clips, 500)
    expected = {position: order[position] for position in sorted(positions.tolist())}
    assert all(jumping[position] == expected[position] for position in positions.tolist())


def test_clips_are_mixed_across_shards_of_a_shuffle_group():
    """Catches a shuffle of shards alone: neighbours in a batch would all come from one video."""
    order = ClipOrder([100] * 32, 0, group_shards=16)
    first = [order[position].shard for position in range(64)]
    assert len(set(first)) > 12
    assert len({order[position].shard for position in range(1600)}) == 16


def test_the_streams_are_the_ones_that_old_checkpoints_were_trained_with():
    """The order is part of a run: a change of library or code that alters it must not pass unnoticed."""
    assert permutation(8, 0, 0, 0).tolist() == PERMUTATION
    assert [clip_seed(0, position) for position in (0, 1, 10**9)] == SEEDS


def test_a_billion_clips_in_a_million_shards_are_planned_in_little_memory():
    """Catches a list of all clips, which takes 8 GB; the plan of two epochs takes 24 MB."""
    tracemalloc.start()
    order = ClipOrder(np.full(1_000_000, 1_000), 0)
    assert order[999_999_999].epoch == 0
    assert order[10**9].epoch == 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6


def test_memory_does_not_grow_with_the_epochs():
    """Catches plans of epochs that are over and kept: in a run of 2,000, a leak that ends it."""
    order = ClipOrder([1] * 2_000, 0, group_shards=1_000)
    held = []
    for epoch in range(40):
        if epoch == 5:  # what is held by then is replaced, piece by piece, by what is counted
            tracemalloc.start()
        assert order[epoch * order.clips].epoch == epoch
        held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert held[-1] < 1.5 * held[10]


def test_no_clip_at_all_is_one_sentence():
    with pytest.raises(DatasetError, match="no clip"):
        ClipOrder([0, 0], 0)


PERMUTATION = [7, 6, 3, 2, 4, 1, 5, 0]
SEEDS = [6490127476100389745, 4797185895903354077, 4784511341873320304]
