"""Two DeepSpeed engines against plain PyTorch: equal weights, no gradient in the wrong network, bad steps skipped."""

import math

import pytest
import torch

from infra.errors import ConfigError
from model.nets.patch_embed import sin_cos_table
from model.train.engines import deepspeed_settings, resolve_precision
from tests.support.engine_scenarios import ALONE, BAD_GRADIENTS, BATCH, POISON_STEP, RATE, SETTINGS, STEPS
from tests.support.plain_loop import largest_difference, plain_run
from tests.support.toy_nets import toy_nets

PART = "steps"
LAST_BIAS = "body.2.bias"
"""D's last bias: its true gradient under the Wasserstein loss is 0, and Adam blows its rounding noise up."""


def assert_equal_runs(found: dict, plain: dict, tolerance: float) -> None:
    assert largest_difference(found["G"], plain["G"]) <= tolerance
    assert largest_difference(found["D"], plain["D"], skip=LAST_BIAS) <= tolerance


@pytest.mark.parametrize(
    ("world", "scenario", "parts"),
    [
        ("one_rank", "accumulation 1", 1),
        ("one_rank", "accumulation 2", 2),
        ("two_ranks", "accumulation 1", 2),
        ("two_ranks", "accumulation 2", 4),
        ("two_ranks", "zero 2", 4),
        ("two_ranks", "zero 0", 2),
        ("two_ranks", "zero 0, accumulation 2", 4),
    ],
)
def test_the_engines_equal_a_plain_loop_over_the_same_split(request, world, scenario, parts):
    """Catches clipping (DeepSpeed's default), D stepping after G, and 'D then G per micro-batch' (off by 1.8e-3)."""
    found = request.getfixturevalue(world)["parity"][scenario]
    plain = plain_run(STEPS, parts, batch=BATCH, rate=RATE, weight=0.5)
    assert_equal_runs(found, plain, 1e-5)
    start = {name: value.detach() for name, value in toy_nets()[0].state_dict().items()}
    assert largest_difference(plain["G"], start) > 1e-2  # the run did move the weights


@pytest.mark.parametrize("setting", ALONE)
def test_a_generator_alone_equals_a_plain_loop_and_skips_what_is_not_finite(any_world, setting):
    """Catches a loss that is summed over micro-batches, and a NaN that is found after gradients were added up."""
    found = any_world["parity"][f"alone, {setting}"]
    if setting != "bf16":
        plain = plain_run(STEPS, 2 * any_world["world"], batch=BATCH, rate=RATE, weight=0.0)
        assert largest_difference(found["G"], plain["G"]) <= 1e-5
    poisoned, without = (any_world["bad step"][f"{kind} alone, {setting}"] for kind in ("poisoned", "without"))
    assert [is_finite for *_, is_finite in poisoned["steps"]].index(False) == POISON_STEP
    assert largest_difference(poisoned["G"], without["G"]) == 0.0


def test_one_rank_of_four_clips_equals_two_of_two_and_two_of_one_twice(one_rank, two_ranks):
    """Catches a loss that is summed, or divided by ranks or accumulation once too often."""
    runs = [one_rank["parity"]["accumulation 1"], *(two_ranks["parity"][f"accumulation {n}"] for n in (1, 2))]
    for other in runs[1:]:
        assert largest_difference(runs[0]["G"], other["G"]) <= 1e-5
        # the noise of a split batch in D's Adam; plain PyTorch has it too
        assert largest_difference(runs[0]["D"], other["D"], skip=LAST_BIAS) <= 1e-3


def test_several_discriminator_steps_are_steps_on_the_same_prediction(any_world):
    """Catches a second D step that is lost or accumulates onto the first."""
    parts = any_world["world"]
    plain = plain_run(STEPS, parts, batch=BATCH, rate=RATE, weight=0.5, d_steps=2)
    assert_equal_runs(any_world["parity"]["two d_steps"], plain, 1e-5)
    once = any_world["parity"]["accumulation 1"]["D"]
    assert largest_difference(plain["D"], once, skip=LAST_BIAS) > 1e-3


def test_several_generator_steps_are_steps_on_new_predictions(any_world):
    """Catches a second G step on the prediction of the first, whose graph is spent."""
    parts = any_world["world"]
    plain = plain_run(STEPS, parts, batch=BATCH, rate=RATE, weight=0.5, g_steps=2)
    assert_equal_runs(any_world["parity"]["two g_steps"], plain, 1e-5)
    assert largest_difference(plain["G"], any_world["parity"]["accumulation 1"]["G"]) > 1e-3


def test_the_gradient_penalty_reaches_the_discriminator_alone(any_world):
    """Catches a penalty that DeepSpeed's hooks lose or count twice (it is differentiated twice)."""
    parts = any_world["world"]
    plain = plain_run(STEPS, parts, batch=BATCH, rate=RATE, weight=0.5, gp_weight=2.0)
    assert_equal_runs(any_world["parity"]["gradient penalty"], plain, 1e-5)
    without = any_world["parity"]["accumulation 1"]["D"]
    assert largest_difference(plain["D"], without, skip=LAST_BIAS) > 1e-3


@pytest.mark.parametrize("kind", SETTINGS)
def test_the_generators_loss_leaves_no_gradient_in_the_discriminator(any_world, kind):
    """Catches G's adversarial term reaching D: with a generator that stands still, D must not depend on its weight."""
    still, other = (any_world["leaks"][f"weight {weight}, {kind}, still"] for weight in (0, 9))
    assert largest_difference(still["D"], other["D"]) == 0.0
    start = {name: value.detach() for name, value in toy_nets()[1].state_dict().items()}
    assert largest_difference(still["D"], start) > 1e-2  # D did learn
    small, large = (any_world["leaks"][f"weight {weight}, {kind}"] for weight in (0, 9))
    assert largest_difference(small["G"], large["G"]) > 1e-4  # the term itself did arrive in G


@pytest.mark.parametrize("kind", SETTINGS)
def test_the_discriminators_loss_leaves_no_gradient_in_the_generator(any_world, kind):
    """Catches a prediction that is not detached: with weight 0, G must train as if there were no D."""
    with_d, alone = any_world["leaks"][f"weight 0, {kind}"], any_world["leaks"][f"no discriminator, {kind}"]
    assert largest_difference(with_d["G"], alone["G"]) == 0.0
    assert "D" not in alone


def test_in_bf16_the_run_stays_close_and_weights_are_the_fp32_masters(any_world):
    """Catches weights or position tables saved from the rounded copy, and rates that never reach bf16's optimiser."""
    found, plain = any_world["parity"]["bf16"], any_world["parity"]["accumulation 1"]
    start = {name: value.detach() for name, value in toy_nets()[0].state_dict().items()}
    assert largest_difference(found["G"], plain["G"]) < 0.5 * largest_difference(plain["G"], start)
    assert all(value.dtype == torch.float32 for network in ("G", "D") for value in found[network].values())
    assert not torch.equal(found["G"]["body.0.weight"], found["G"]["body.0.weight"].bfloat16().float())
    assert torch.equal(found["G"]["positions.emb"], sin_cos_table(8, 4))


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_loss_that_is_nan_on_one_rank_skips_both_updates_on_all(any_world, accumulation):
    """Catches the silent drift of G against D: the run must equal one without the step, bit for bit."""
    poisoned, without = (any_world["bad step"][f"{kind} {accumulation}"] for kind in ("poisoned", "without"))
    flags = [is_finite for _, _, is_finite in poisoned["steps"]]
    assert flags == [step != POISON_STEP for step in range(STEPS)]
    for network in ("G", "D"):
        assert largest_difference(poisoned[network], without[network]) == 0.0
        assert all(torch.isfinite(value).all() for value in poisoned[network].values())


@pytest.mark.parametrize("kind", BAD_GRADIENTS)
def test_a_gradient_that_is_nan_on_one_rank_skips_both_updates_on_all(any_world, kind):
    """Catches NaN in the weights at ZeRO 0, where nobody but us looks at gradients: the losses are finite here."""
    poisoned, without = (any_world["bad gradient"][f"{run} {kind}"] for run in ("poisoned", "without"))
    assert [is_finite for *_, is_finite in poisoned["steps"]] == [step != POISON_STEP for step in range(STEPS)]
    assert poisoned["norms"].pop(POISON_STEP) == (None, None)
    assert poisoned["norms"] == without["norms"]
    for network in ("G", "D"):
        assert largest_difference(poisoned[network], without[network]) == 0.0
        assert all(torch.isfinite(value).all() for value in poisoned[network].values())
    if kind.startswith("G"):
        assert poisoned["counts"] == (STEPS, 1)


def test_gradient_norms_are_the_same_at_zero_0(any_world):
    """Catches norms that are missing there, or measured before ranks are averaged."""
    found, others = (any_world["parity"][name]["norms"] for name in ("zero 0", "accumulation 1"))
    for norms, expected in zip(found, others, strict=True):
        assert norms == pytest.approx(expected, rel=1e-4)


def test_fp16_gradients_that_overflow_in_one_engine_skip_both(any_world):
    """Catches D stepping, moments and all, where G overflows: the run must equal one without those steps."""
    whole, rest, skipped = (any_world["overflow"][name] for name in ("whole", "rest", "skipped"))
    assert 3 < skipped < STEPS * 2 - 1
    assert [is_finite for *_, is_finite in whole["steps"][skipped:]] == [True] * (STEPS * 2 - skipped)
    assert whole["steps"][skipped:] == rest["steps"]
    for network in ("G", "D"):
        assert largest_difference(whole[network], rest[network]) == 0.0


def test_losses_fall_and_are_finite(any_world):
    """Catches a learning rate that never reaches the engines."""
    losses = [loss for loss, _, _ in any_world["parity"]["accumulation 1"]["steps"]]
    assert all(map(math.isfinite, losses))
    assert losses[-1] < 0.7 * losses[0]


def test_settings_for_both_engines_never_clip_and_reduce_bf16_in_fp32():
    """Catches DeepSpeed's own default of 1.0, which rescales D's updates."""
    for precision in ("fp32", "bf16", "fp16"):
        settings = deepspeed_settings(2, 3, 4, precision, 1)
        assert settings["gradient_clipping"] == 0.0
        assert settings["train_batch_size"] == 24
    assert deepspeed_settings(1, 1, 1, "bf16", 1)["communication_data_type"] == "fp32"
    assert "communication_data_type" not in deepspeed_settings(1, 1, 1, "fp32", 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks what happens without a GPU")
def test_fp16_on_a_cpu_is_refused_and_auto_is_fp32():
    """DeepSpeed refuses fp16 with its own words, and torch's autocast not at all."""
    assert resolve_precision("auto") == "fp32"
    with pytest.raises(ConfigError, match="fp32"):
        resolve_precision("fp16")
