"""The weights that a run leaves, at its end and in every checkpoint: both networks in fp32, and their provenance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist

from infra.config import config_digest
from model.train.engines import Engines, full_state
from model.train.networks import model_shape
from model.train_config import PretrainConfig
from model.weights import DISCRIMINATOR, save_weights
from pipeline.dataset.reader import DatasetReader


@dataclass(frozen=True)
class WeightWriter:
    """Writes the engines' weights as one file that says what they were trained on and under whose licences."""

    cfg: PretrainConfig
    engines: Engines
    reader: DatasetReader

    def __call__(self, path: Path, step: int) -> None:
        """Write the weights as they are after ``step``. Collective; rank 0 writes."""
        state = full_state(self.engines.generator)
        if self.engines.discriminator is not None:
            judge = full_state(self.engines.discriminator)
            state |= {f"{DISCRIMINATOR}{name}": value for name, value in judge.items()}
        if dist.get_rank() == 0:
            cfg, version = self.cfg, self.reader.version
            provenance = {
                "kind": "pretrain",
                "dataset": self.reader.storage.uri,
                "dataset_version": version.version,
                "recipe_digest": version.recipe_digest,
                "source_licence": version.source_licence,
                "licences": [licence.model_dump() for licence in version.licences],
                "config_digest": config_digest(cfg),
                "init_from": cfg.init_from,
                "steps": step,
                "clips_seen": step * cfg.global_batch,
                "mask": cfg.mask.model_dump(),
            }
            save_weights(path, state, model_shape(cfg), provenance)
        dist.barrier()
