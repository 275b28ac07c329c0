"""What the engine tests run on N ranks, in one process group, since starting DeepSpeed costs most of the time.

``python -m torch.distributed.run --standalone --nproc-per-node N -m tests.support.engine_scenarios OUT PART`` leaves
``OUT/results.pt``: name of the scenario → its tensors and facts, as rank 0 saw them. PART is ``steps`` or
``checkpoints``. Judging is left to the tests.
"""

from __future__ import annotations

import errno
import math
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from infra.errors import CheckpointError
from model.data.batch import ClipBatch
from model.train.checkpoint import load_checkpoint, save_checkpoint
from model.train.checkpoint_folder import BEST, COMPLETE, FOLDER, TrainState, check, list_checkpoints
from model.train.determinism import random_state, seed_everything
from model.train.engines import Engines, build_engines, full_state, init_distributed
from model.train.step import pretrain_step
from model.train_config import AdversarialConfig, OptimConfig
from tests.support.toy_nets import toy_batch, toy_nets

BATCH, STEPS, RATE = 4, 6, 1e-2
NO_RATE = 1e-30
"""A learning rate too small to move an fp32 weight."""
POISON_STEP = 2
HALF = AdversarialConfig(weight=0.5)
PENALISED = AdversarialConfig(weight=0.5, gp_weight=2.0)  # draws from the global generator
SETTINGS: dict[str, dict[str, Any]] = {
    "1": {},
    "2": {"accumulation": 2},
    "bf16": {"precision": "bf16"},  # another optimiser inside DeepSpeed, the one that GPUs get
    "bf16, 2": {"accumulation": 2, "precision": "bf16"},
}
ALONE: dict[str, dict[str, Any]] = {
    "zero 1": {},
    "zero 2": {"zero_stage": 2},
    "zero 0": {"zero_stage": 0},
    "bf16": {"precision": "bf16"},
}
"""Without a discriminator, on two micro-batches."""
RESUMED = SETTINGS | {"zero 0": {"zero_stage": 0}, "zero 2, 2": {"accumulation": 2, "zero_stage": 2}}
BAD_GRADIENTS: dict[str, tuple[str, dict[str, Any], AdversarialConfig]] = {
    "G": ("G", {}, HALF),
    "G, zero 0": ("G", {"zero_stage": 0}, HALF),
    "D, zero 0": ("D", {"zero_stage": 0}, HALF),
    "G, zero 0, 2": ("G", {"zero_stage": 0, "accumulation": 2}, HALF),
    "D, zero 0, two d_steps": ("D", {"zero_stage": 0}, AdversarialConfig(weight=0.5, d_steps=2)),
}
"""What is NaN, how it is computed, and the settings."""
OVERFLOWING = AdversarialConfig(weight=300)
"""In fp16 the generator's gradients overflow at the first loss scale, and the discriminator's do not."""
Poison = Callable[[int, ClipBatch], ClipBatch]


class Bench:
    """Makes engines and steps them on this rank's share of the toy batches."""

    def __init__(self) -> None:
        self.device = init_distributed()
        self.rank, self.world = dist.get_rank(), dist.get_world_size()

    def engines(
        self,
        accumulation: int = 1,
        *,
        adversarial: bool = True,
        zero_stage: int = 1,
        precision: Any = "fp32",
        compiled: bool = False,
        seed: int = 0,
    ) -> Engines:
        generator, discriminator = toy_nets(seed)
        seed_everything(seed, self.rank)
        return build_engines(
            generator, discriminator if adversarial else None, device=self.device, optim=OptimConfig(),
            micro_batch=BATCH // self.world // accumulation, accumulation=accumulation, precision=precision,
            zero_stage=zero_stage, compiled=compiled,
        )  # fmt: skip

    def run(
        self,
        engines: Engines,
        steps: Sequence[int],
        cfg: AdversarialConfig = HALF,
        poison: Poison | None = None,
        rate: float = RATE,
    ) -> dict[str, Any]:
        """Step through ``steps``; return weights of both networks and the facts of each step.

        ``rate`` is the generator's; the discriminator always learns at ``RATE``.
        """
        share = BATCH // self.world
        facts, norms = [], []
        for step in steps:
            mine = toy_batch(step).split(share)[self.rank]
            mine = poison(step, mine) if poison else mine
            engines.set_learning_rate(rate, RATE / rate)
            result = pretrain_step(engines, mine.split(share // engines.accumulation), cfg)
            facts.append((result.reconstruction.item(), result.discriminator.item(), result.is_finite))
            norms.append((result.grad_norm_g, result.grad_norm_d))
        found = {"steps": facts, "norms": norms, "G": full_state(engines.generator)}
        if engines.discriminator is not None:
            found["D"] = full_state(engines.discriminator)
        return found

    def poison_last_rank(self, step: int, batch: ClipBatch) -> ClipBatch:
        """Make one loss NaN on the last rank only: a mask that hides nothing leaves an empty mean."""
        if step == POISON_STEP and self.rank == self.world - 1:
            return batch._replace(is_masked_BL=torch.zeros_like(batch.is_masked_BL))
        return batch

    def poison_gradient(self, network: str, engines: Engines, cfg: AdversarialConfig) -> Poison:
        """Make one gradient NaN on the last rank, in the last backward of a network's step; the losses stay finite."""
        engine = engines.generator if network == "G" else engines.discriminator
        last = engines.accumulation * (cfg.d_steps if network == "D" else cfg.g_steps)
        now = {"step": 0, "backwards": 0}

        def harm(gradient: Tensor) -> Tensor:
            now["backwards"] += 1
            is_bad = now["step"] == POISON_STEP and now["backwards"] == last and self.rank == self.world - 1
            return gradient * math.nan if is_bad else gradient

        def watch(step: int, batch: ClipBatch) -> ClipBatch:
            now.update(step=step, backwards=0)
            return batch

        engine.module.body[0].weight.register_hook(harm)
        return watch

    def state(self, step: int) -> TrainState:
        return TrainState(step, {"version": 1, "seed": 0, "clips_seen": step * BATCH}, "digest", self.world)


def parity(bench: Bench) -> dict[str, Any]:
    found = {}
    for accumulation in (1, 2):
        if BATCH // bench.world // accumulation:
            found[f"accumulation {accumulation}"] = bench.run(bench.engines(accumulation), range(STEPS))
    found["zero 2"] = bench.run(bench.engines(2, zero_stage=2), range(STEPS))
    found["zero 0"] = bench.run(bench.engines(zero_stage=0), range(STEPS))
    found["zero 0, accumulation 2"] = bench.run(bench.engines(2, zero_stage=0), range(STEPS))
    for name, options in ALONE.items():
        found[f"alone, {name}"] = bench.run(bench.engines(2, adversarial=False, **options), range(STEPS))
    found["two g_steps"] = bench.run(bench.engines(), range(STEPS), AdversarialConfig(weight=0.5, g_steps=2))
    found["bf16"] = bench.run(bench.engines(precision="bf16"), range(STEPS))
    found["gradient penalty"] = bench.run(bench.engines(), range(STEPS), PENALISED)
    found["two d_steps"] = bench.run(bench.engines(), range(STEPS), AdversarialConfig(weight=0.5, d_steps=2))
    return found


def leaks(bench: Bench) -> dict[str, Any]:
    """One step with each weight of the adversarial term; and three in which the generator does not move.

    What leaks into D's gradients in G's turn shows in D's *next* update, where a generator that moved would show too.
    """
    found: dict[str, Any] = {}
    for name, options in SETTINGS.items():
        alone = bench.engines(**options, adversarial=False)
        found[f"no discriminator, {name}"] = bench.run(alone, range(1), AdversarialConfig(weight=0.0))
        for weight in (0, 9):
            cfg = AdversarialConfig(weight=weight)
            found[f"weight {weight}, {name}"] = bench.run(bench.engines(**options), range(1), cfg)
            found[f"weight {weight}, {name}, still"] = bench.run(bench.engines(**options), range(3), cfg, rate=NO_RATE)
    return found


def bad_step(bench: Bench) -> dict[str, Any]:
    rest = [step for step in range(STEPS) if step != POISON_STEP]
    alone = {
        f"{kind} alone, {name}": bench.run(bench.engines(2, adversarial=False, **options), steps, poison=poison)
        for name, options in ALONE.items()
        for kind, steps, poison in (("poisoned", range(STEPS), bench.poison_last_rank), ("without", rest, None))
    }
    return alone | {
        f"{kind} {accumulation}": bench.run(bench.engines(accumulation), steps, poison=poison)
        for accumulation in (1, 2)
        for kind, steps, poison in (("poisoned", range(STEPS), bench.poison_last_rank), ("without", rest, None))
    }


def bad_gradient(bench: Bench) -> dict[str, Any]:
    """A gradient of either network that is NaN on one rank, and the same run without that step."""
    rest = [step for step in range(STEPS) if step != POISON_STEP]
    found = {}
    for name, (network, options, cfg) in BAD_GRADIENTS.items():
        engines = bench.engines(**options)
        poison = bench.poison_gradient(network, engines, cfg)
        found[f"poisoned {name}"] = bench.run(engines, range(STEPS), cfg, poison) | {"counts": _counts(engines)}
        found[f"without {name}"] = bench.run(bench.engines(**options), rest, cfg)
    return found


def overflow(bench: Bench) -> dict[str, Any]:
    """fp16 on a CPU, which DeepSpeed refuses and torch can do: loss scales that overflow, as on a GPU."""
    from deepspeed.accelerator import get_accelerator

    get_accelerator().is_fp16_supported = lambda: True
    whole = bench.run(bench.engines(precision="fp16"), range(2 * STEPS), OVERFLOWING)
    skipped = [is_finite for _, _, is_finite in whole["steps"]].index(True)
    rest = bench.engines(precision="fp16")
    rest.generator.optimizer.loss_scaler.cur_scale = 2.0 ** (16 - skipped + 1)  # DeepSpeed forgives the first
    return {"whole": whole, "rest": bench.run(rest, range(skipped, 2 * STEPS), OVERFLOWING), "skipped": skipped}


def resume(bench: Bench, out: Path) -> dict[str, Any]:
    """Steps 0..5 at once, and 0..2, save, fresh engines with other weights, load, 3..5."""
    found: dict[str, Any] = {}
    for name, options in RESUMED.items():
        whole = bench.engines(**options)
        noise = [torch.rand(1).item() for _ in range(2)]
        bench.run(whole, range(3), PENALISED)
        folder = out / f"resume-{name}"
        save_checkpoint(folder, whole, bench.state(3), keep_last=2, add=_write_late)
        next_noise = torch.rand(3)
        found[f"uninterrupted {name}"] = bench.run(whole, range(3, STEPS), PENALISED) | {
            "noise": next_noise,
            "spent": noise,
        }
        other = bench.engines(**options, seed=7)
        found[f"before loading {name}"] = {"G": full_state(other.generator), "noise": torch.rand(3)}
        state = load_checkpoint(folder, other, config_digest="digest")
        resumed_noise = torch.rand(3)
        found[f"resumed {name}"] = bench.run(other, range(3, STEPS), PENALISED) | {
            "noise": resumed_noise,
            "state": state,
        }
    found["weights alone"] = _weights_alone(bench, out / "resume-1")
    found["other digest"] = _refusal(out / "resume-1", bench.engines(), "other")
    gathered: list[Any] = [None] * bench.world
    dist.all_gather_object(gathered, random_state()["torch"].tolist())
    found["ranks differ in noise"] = len({tuple(state) for state in gathered}) == bench.world
    return found


def damage(bench: Bench, out: Path) -> dict[str, Any]:
    """Two checkpoints; the newer is damaged in each way; what is loaded, and what of."""
    engines = bench.engines()
    whole = out / "whole"
    for step in (1, 2):
        bench.run(engines, range(step - 1, step))
        save_checkpoint(whole, engines, bench.state(step), keep_last=2)
    found: dict[str, Any] = {"kept": [path.name for path in list_checkpoints(whole)]}
    newest = f"{FOLDER}/step-000002"
    moments = f"{newest}/D/zero_pp_rank_{bench.world - 1}_mp_rank_00_optim_states.pt"
    for name, harm in {
        "whole": lambda folder: None,
        "rank's file missing": lambda folder: (folder / moments).unlink(),
        "rank's file truncated": lambda folder: (folder / moments).write_bytes((folder / moments).read_bytes()[:-9]),
        "a flipped byte": lambda folder: _flip(folder / moments),
        "another step's file": lambda folder: shutil.copy(
            folder / moments.replace("step-000002", "step-000001"), folder / moments
        ),
        "no manifest": lambda folder: (folder / newest / COMPLETE).unlink(),
        "killed while writing": lambda folder: (folder / newest).rename(folder / f"{newest}.tmp"),
        "all damaged": lambda folder: [(path / COMPLETE).write_text("{") for path in list_checkpoints(folder)],
        "none": lambda folder: shutil.rmtree(folder / FOLDER),
    }.items():
        folder = out / "damaged" / name.replace(" ", "-")
        if bench.rank == 0:
            shutil.copytree(whole, folder)
            harm(folder)
        dist.barrier()
        fresh = bench.engines(seed=7)
        try:
            state = load_checkpoint(folder, fresh, config_digest="digest")
            found[name] = state.step if state else None
        except CheckpointError as error:
            found[name] = str(error)
    return found


def keeping(bench: Bench, out: Path) -> dict[str, Any]:
    """Four checkpoints with validation losses, of which the newest and the best stay; and one for which no room is."""
    folder, engines = out / "keeping", bench.engines()
    for step, loss in ((1, 0.5), (2, 0.2), (3, math.nan), (4, None)):
        state = replace(bench.state(step), val_loss=loss)
        save_checkpoint(folder, engines, state, keep_last=1, keep_best=1)
    found: dict[str, Any] = {
        "kept": [path.name for path in list_checkpoints(folder)],
        "best": (folder / FOLDER / BEST).read_text(),
    }
    free = shutil.disk_usage
    shutil.disk_usage = lambda path: SimpleNamespace(free=5000)  # type: ignore[assignment]
    try:
        save_checkpoint(folder, engines, bench.state(5), keep_last=2)
    except CheckpointError as error:
        found["full"] = str(error)
    shutil.disk_usage = free
    found["after"] = sorted(path.name for path in (folder / FOLDER).glob("step-*") if check(path) is None)
    return found


def passing(bench: Bench, out: Path) -> dict[str, Any]:
    """Faults of the file system on one rank: rank 0 seals, and the last rank loads."""
    folder, engines = out / "passing", bench.engines()
    save_checkpoint(folder, engines, bench.state(1), keep_last=2)
    if bench.rank == 0:
        (folder / FOLDER / "step-000002").write_text("in the way of the new name")
    dist.barrier()
    found = {"saving": _error(lambda: save_checkpoint(folder, engines, bench.state(2), keep_last=2))}

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    if bench.rank == bench.world - 1:
        engines.generator.load_checkpoint = fail
    return found | {"loading": _error(lambda: load_checkpoint(folder, engines, config_digest="digest"))}


def _error(work: Callable[[], object]) -> list[str]:
    """Type names of the errors that ``work`` raised, rank by rank."""
    raised = ""
    try:
        work()
    except Exception as error:
        raised = type(error).__name__
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, raised)
    return gathered


def _counts(engines: Engines) -> tuple[int, int]:
    """What DeepSpeed counted of the generator: steps, and those left out."""
    return engines.generator.global_steps, engines.generator.skipped_steps


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def _weights_alone(bench: Bench, folder: Path) -> dict[str, Any]:
    """What a resume that forgets optimiser and random state would do: the resume test must be able to fail."""
    engines = bench.engines(seed=7)
    path = str(folder / FOLDER / "step-000003")
    for tag, engine in (("G", engines.generator), ("D", engines.discriminator)):
        assert engine is not None
        engine.load_checkpoint(path, tag=tag, load_optimizer_states=False)
    noise = torch.rand(3)
    return bench.run(engines, range(3, STEPS), PENALISED) | {"noise": noise}


def _refusal(folder: Path, engines: Engines, digest: str) -> str:
    try:
        load_checkpoint(folder, engines, config_digest=digest)
    except CheckpointError as error:
        return str(error)
    return "no error"


def _write_late(folder: Path) -> None:
    """Be the slow rank: sealing must wait for the last rank's files."""
    if dist.get_rank() == dist.get_world_size() - 1:
        time.sleep(0.3)
        (folder / "late").write_text("here")


def main() -> None:
    """Run every scenario of one part."""
    torch.set_num_threads(1)
    out, part = Path(sys.argv[1]), sys.argv[2]
    bench = Bench()
    results: dict[str, Any] = {"world": bench.world}
    if part == "steps":
        results |= {
            "parity": parity(bench),
            "leaks": leaks(bench),
            "bad step": bad_step(bench),
            "bad gradient": bad_gradient(bench),
            "overflow": overflow(bench),
        }
    else:
        results |= {
            "resume": resume(bench, out),
            "damage": damage(bench, out),
            "keeping": keeping(bench, out),
            "passing": passing(bench, out),
        }
    if bench.rank == 0:
        torch.save(results, out / "results.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
