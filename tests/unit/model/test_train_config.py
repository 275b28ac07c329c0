"""Settings of pretraining that do not fit together are refused with the cure."""

from typing import get_args

import pytest

from infra.config import load_config
from infra.errors import ConfigError
from model.masking import STRATEGIES
from model.train_config import MaskStrategy, PretrainConfig


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["global_batch=6", "world_size=4"], "global_batch 6 cannot be shared by 4 ranks; take 4 or 8"),
        (["global_batch=12", "world_size=2", "micro_batch=4"], "one of 1, 2, 3, 6"),
        (["optim.warmup_clips=100", "optim.total_clips=100"], "must be less than total_clips"),
        (["optim.min_lr=1", "optim.base_lr=0.1"], "must not exceed"),
        (["optim.betas=[0.9,1.0]"], r"optim\.betas.*less than 1"),
        (["data.val_split=train"], "both 'train'.*val_clips=0"),
        (["optim.base_rl=0.1"], "did you mean 'base_lr'"),
        (["mask.strategy=tubes"], "mask.strategy"),
        (["zero_stage=3"], "stage 3 is not offered.*take 2"),
        (["zero_stage=0", "precision=bf16"], "take 1, or precision fp32"),
        (["launch.nodes=2"], "set launch.rendezvous=HOST:PORT"),
        (["launch.nodes=2", "launch.rendezvous=head:1", "launch.node_rank=2"], "not below nodes"),
        (["launch.nodes=2", "launch.rendezvous=head"], "launch.rendezvous"),
        (["launch.nodes=4", "launch.rendezvous=head:1", "world_size=6"], "multiple; take 8"),
    ],
)
def test_settings_that_do_not_fit_are_one_sentence_with_the_cure(overrides, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load_config(PretrainConfig, None, overrides)


def test_a_split_may_be_trained_on_whole_where_nothing_is_validated():
    overrides = ["data.val_split=train", "data.val_clips=0"]
    assert load_config(PretrainConfig, None, overrides).data.split == "train"


def test_defaults_are_the_released_recipe():
    """The released recipe: 4 GPUs × 16 clips, 5.2 million clips, 40 epochs of warm-up."""
    cfg = PretrainConfig()
    assert (cfg.global_batch, cfg.optim.betas, cfg.optim.base_lr) == (64, (0.9, 0.95), 1.5e-4)
    assert cfg.optim.total_clips == 2_593 * 2_000
    assert cfg.share(4) == (16, 1)


def test_how_a_run_is_computed_is_no_part_of_what_it_learns():
    """Catches a cure (a smaller micro-batch, other ranks) that a run folder refuses, and a change that it takes."""
    plain = PretrainConfig()
    cures = ["micro_batch=2", "world_size=4", "activation_checkpointing=true", "data.workers=9", "log_every=1"]
    assert load_config(PretrainConfig, None, cures).essence() == plain.essence()
    for change in ("global_batch=32", "data.shuffle_shards=3", "optim.base_lr=1e-3", "seed=1", "adversarial.d_steps=2"):
        assert load_config(PretrainConfig, None, [change]).essence() != plain.essence()


def test_the_last_step_is_a_full_batch():
    cfg = load_config(PretrainConfig, None, ["optim.total_clips=10", "optim.warmup_clips=0", "global_batch=4"])
    assert cfg.steps == 3


def test_the_config_knows_the_strategies_that_masking_knows():
    """Catches the two lists drifting apart; the config has its own so that it stays light."""
    assert get_args(MaskStrategy) == STRATEGIES
