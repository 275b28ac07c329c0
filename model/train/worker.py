"""What torchrun starts on every rank: ``python -m model.train.worker DIR``.

The run folder holds everything the ranks need (``config.yaml``, resolved) and takes everything they make.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch.distributed as dist

from infra.config import load_config, tree_digest
from infra.launcher import ExitStatus
from infra.metrics import open_metrics
from infra.progress import Progress
from infra.run import CONFIG_FILE
from model.data.loader import ClipLoader
from model.train.checkpoint import load_checkpoint
from model.train.determinism import seed_everything
from model.train.engines import DTYPES, build_engines, init_distributed, resolve_precision
from model.train.meter import Meter, total_peak
from model.train.networks import build_networks, clip_flops
from model.train.ranks import run_as_rank
from model.train.result import WeightWriter, start_facts
from model.train.run_folder import WEIGHTS
from model.train.sources import open_source, open_validation, reading_workers, reopen_training
from model.train.trainer import StopSignal, Trainer
from model.train.validate import Validation
from model.train_config import PretrainConfig
from pipeline.dataset.reader import open_dataset


def main(arguments: list[str] | None = None) -> int:
    """Run one rank; return its exit code."""
    parser = argparse.ArgumentParser(description="One rank of a pretraining run; started by `marlin pretrain`.")
    parser.add_argument("run_dir", type=Path, help="run folder")
    run_dir = parser.parse_args(arguments).run_dir
    cure = "lower micro_batch (gradient accumulation keeps the result), or set activation checkpointing"
    return run_as_rank(
        run_dir, lambda: run_rank(load_config(PretrainConfig, run_dir / CONFIG_FILE), run_dir), memory_cure=cure
    )


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


if __name__ == "__main__":
    raise SystemExit(main())
