"""A resumed run is the uninterrupted one, bit for bit, and nothing but a whole checkpoint is ever loaded."""

import pytest

from tests.support.engine_scenarios import RESUMED
from tests.support.plain_loop import largest_difference

PART = "checkpoints"


@pytest.mark.parametrize("kind", RESUMED)
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(any_world, kind):
    """Catches a checkpoint without moments, master weights, counters or random state."""
    results = any_world["resume"]
    whole, resumed = results[f"uninterrupted {kind}"], results[f"resumed {kind}"]
    before = results[f"before loading {kind}"]
    assert largest_difference(before["G"], whole["G"]) > 1e-2  # loading had something to do
    assert before["noise"].tolist() != whole["noise"].tolist()
    assert resumed["steps"] == whole["steps"]
    assert resumed["noise"].tolist() == whole["noise"].tolist()
    for network in ("G", "D"):
        assert largest_difference(resumed[network], whole[network]) == 0.0


def test_a_checkpoint_that_restores_weights_alone_would_be_caught(any_world):
    """The test above must be able to fail: without moments and random state the same comparison shows it."""
    results = any_world["resume"]
    whole, forgetful = results["uninterrupted 1"], results["weights alone"]
    assert forgetful["steps"][0][:1] == whole["steps"][0][:1]  # the weights are there: the first loss is the same
    assert largest_difference(forgetful["G"], whole["G"]) > 1e-4
    assert forgetful["noise"].tolist() != whole["noise"].tolist()


def test_the_data_position_and_counters_come_back(any_world):
    """Catches a resume that reads the first clips again."""
    state = any_world["resume"]["resumed 1"]["state"]
    assert (state.step, state.data["clips_seen"]) == (3, 12)


def test_every_rank_has_its_own_noise(two_ranks):
    """Catches DeepSpeed's client_state, which comes back as rank 0's on every rank."""
    assert two_ranks["resume"]["ranks differ in noise"]


def test_a_checkpoint_of_other_settings_is_refused(any_world):
    """Catches a run folder that is used again with another config."""
    assert "other settings" in any_world["resume"]["other digest"]


@pytest.mark.parametrize(
    "damage",
    [
        "rank's file missing",
        "rank's file truncated",
        "a flipped byte",
        "another step's file",
        "no manifest",
        "killed while writing",
    ],
)
def test_a_damaged_newest_checkpoint_is_passed_over_for_the_one_before(any_world, damage):
    """DeepSpeed alone restarts silently, loads half, or loads wrong bytes without a word."""
    assert any_world["damage"]["whole"] == 2
    assert any_world["damage"][damage] == 1


def test_only_damaged_checkpoints_stop_the_run_and_none_at_all_starts_it(any_world):
    """Catches silently starting again over a run whose checkpoints are all broken."""
    assert "is whole" in any_world["damage"]["all damaged"]
    assert any_world["damage"]["none"] is None
    assert any_world["damage"]["kept"] == ["step-000001", "step-000002"]


def test_the_best_by_validation_stays_beside_the_newest(any_world):
    """Catches a best that is pruned by age, a NaN that is called best, and one that was never measured."""
    assert any_world["keeping"]["kept"] == ["step-000002", "step-000004"]
    assert any_world["keeping"]["best"] == "step-000002"


def test_a_disk_without_room_is_refused_by_all_ranks_before_one_writes(any_world):
    """Catches ranks that stop half-way, and a good checkpoint that is given up for one that cannot be written."""
    assert "GB free" in any_world["keeping"]["full"]
    assert any_world["keeping"]["after"] == ["step-000002", "step-000004"]


@pytest.mark.parametrize("doing", ["saving", "loading"])
def test_a_passing_fault_of_one_rank_is_no_refusal(any_world, doing):
    """Catches a stale file handle that ends the run for good: ranks that refuse are not started again."""
    assert any_world["passing"][doing] == ["StorageError"] * any_world["world"]
