"""What torchrun starts on every rank: ``python -m model.train.worker DIR``.

The run folder holds everything the ranks need (``config.yaml``, resolved) and takes everything they make. How it ended
is left in ``exit_status``, the reason in ``failure``: those of the first rank to fail, since the others fail of it. An
end that all ranks agree on (done, preempted, diverged, refused) exits with 0, so that torchrun neither restarts it nor
prints a trace over its sentence; all others are restarted, from the newest checkpoint.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from infra.config import load_config, tree_digest
from infra.errors import CheckpointError, ConfigError, ProjectError, TrainingError
from infra.launcher import EXIT_FILE, ExitStatus, report_exit
from infra.lifeline import die_with_torchrun
from infra.log import configure_logging
from infra.metrics import open_metrics
from infra.progress import Progress
from infra.run import CONFIG_FILE
from model.data.loader import ClipLoader
from model.train.checkpoint import load_checkpoint
from model.train.determinism import seed_everything
from model.train.engines import DTYPES, build_engines, init_distributed, resolve_precision
from model.train.meter import Meter, total_peak
from model.train.networks import build_networks, clip_flops
from model.train.result import WeightWriter, start_facts
from model.train.run_folder import FAILURE, WEIGHTS, busy, hold_run
from model.train.sources import open_source, open_validation, reading_workers, reopen_training
from model.train.trainer import StopSignal, Trainer
from model.train.validate import Validation
from model.train_config import PretrainConfig
from pipeline.dataset.reader import open_dataset

logger = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Run one rank; return its exit code."""
    parser = argparse.ArgumentParser(description="One rank of a pretraining run; started by `marlin pretrain`.")
    parser.add_argument("run_dir", type=Path, help="run folder")
    run_dir = parser.parse_args(arguments).run_dir
    configure_logging()
    die_with_torchrun()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if os.environ.get("RANK", "0") == "0":
        if hold_run(run_dir) is None:
            return _ended(run_dir, ExitStatus.REFUSED, busy(run_dir), code=1)
        for name in (EXIT_FILE, FAILURE):  # of the attempt before a restart
            (run_dir / name).unlink(missing_ok=True)
    try:
        status = run_rank(load_config(PretrainConfig, run_dir / CONFIG_FILE), run_dir)
    except TrainingError as error:
        return _ended(run_dir, ExitStatus.DIVERGED, str(error), code=0)
    except CheckpointError as error:
        return _ended(run_dir, ExitStatus.REFUSED, str(error), code=0)
    except ConfigError as error:  # of this machine alone, or the command would have refused it
        return _ended(run_dir, ExitStatus.REFUSED, str(error), code=1)
    except torch.OutOfMemoryError as error:
        cure = "lower micro_batch (gradient accumulation keeps the result), or set activation checkpointing"
        return _ended(run_dir, ExitStatus.OUT_OF_MEMORY, f"out of GPU memory ({error}); {cure}", code=1)
    except (ProjectError, OSError) as error:
        return _ended(run_dir, ExitStatus.FAILED, str(error), code=1)
    if dist.get_rank() == 0:
        report_exit(run_dir, status)
    dist.barrier()  # other machines read it when their ranks have ended
    dist.destroy_process_group()
    return 0


def run_rank(cfg: PretrainConfig, run_dir: Path) -> ExitStatus:
    """Build, resume if there is something to resume, train, and leave the weights. Collective."""
    stop = StopSignal()
    stop.install()
    device = init_distributed()
    rank, world = dist.get_rank(), dist.get_world_size()
    micro_batch, accumulation = cfg.share(world)
    digest = tree_digest(cfg.essence())
    precision = resolve_precision(cfg.precision)
    reader = open_dataset(cfg.data.dataset, cfg.data.version)
    source = open_source(cfg, reader, cfg.data.split)
    generator, discriminator = build_networks(cfg)
    engines = build_engines(
        generator, discriminator, device=device, optim=cfg.optim, micro_batch=micro_batch, accumulation=accumulation,
        precision=precision, zero_stage=cfg.zero_stage, compiled=cfg.compile,
    )  # fmt: skip
    seed_everything(cfg.seed, rank)
    loader = ClipLoader(
        source, cfg.global_batch, rank=rank, world=world, read_ahead=cfg.data.read_ahead,
        workers=reading_workers(cfg.data.workers, cfg.ranks_per_node, on_gpu=device.type == "cuda"),
        pin_memory=device.type == "cuda",
        opens=partial(reopen_training, cfg, reader.version.version) if cfg.data.processes else None,
    )  # fmt: skip
    sink = open_metrics(run_dir, enabled=rank == 0)
    validation = Validation(
        engines, open_validation(cfg, reader), source, cfg.data.val_clips, cfg.data.probe_clips, micro_batch, run_dir
    )
    write_weights = WeightWriter(cfg, engines, reader, start_facts(cfg) if rank == 0 else {})
    cost = clip_flops(cfg)
    meter = Meter(device, cfg.global_batch, cost, total_peak(device, DTYPES[precision], cfg.peak_tflops))
    trainer = Trainer(cfg, run_dir, engines, loader, micro_batch, digest, sink, meter, stop, validation, write_weights)
    try:
        state = load_checkpoint(run_dir, engines, config_digest=digest)
        if state is not None and state.world_size != world:
            seed_everything(cfg.seed, rank, state.step)
        trainer.resume(state)
        progress = Progress("pretrain", cfg.steps, unit="step", folder=run_dir, initial=trainer.step, enabled=rank == 0)
        with progress:
            status = trainer.train(progress)
        if status is ExitStatus.DONE:
            write_weights(run_dir / WEIGHTS, trainer.step)
        return status
    finally:
        loader.close()
        sink.close()


def _ended(run_dir: Path, status: ExitStatus, sentence: str, *, code: int) -> int:
    logger.error("%s", sentence)
    with contextlib.suppress(OSError):  # another rank was first, or the disk is full
        with (run_dir / FAILURE).open("x", encoding="utf-8") as file:
            file.write(sentence)
        report_exit(run_dir, status)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
