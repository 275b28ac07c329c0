"""``pretrain_flow``: pretrain on a pinned dataset version; the same parameters go on with the same run folder."""

from __future__ import annotations

from prefect import flow

from flows.ingest import DAY_S
from flows.runs import settled_folder
from flows.tasks import pretrain_task
from infra.storage import open_storage
from model.pretrain import PretrainReport
from model.train_config import PretrainConfig
from pipeline.dataset.versions import newest_version


@flow(name="pretrain", flow_run_name="pretrain {cfg.model.name} on {cfg.data.dataset}", timeout_seconds=60 * DAY_S)
def pretrain_flow(cfg: PretrainConfig, runs: str = "runs") -> PretrainReport:
    """Pretrain, or go on.

    Args:
        cfg: settings of `marlin pretrain`; without a dataset version the newest one is taken now.
        runs: folder of run folders.

    Raises:
        ProjectError: the sentence of what could not be done; the same run again goes on.
    """
    if cfg.data.version is None:
        newest = newest_version(open_storage(cfg.data.dataset)).version
        cfg = cfg.model_copy(update={"data": cfg.data.model_copy(update={"version": newest})})
    return pretrain_task(cfg, settled_folder(runs, "pretrain", cfg))
