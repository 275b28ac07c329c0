"""``adapt_flow``: adapt an encoder to a task and measure it."""

from __future__ import annotations

import logging

from prefect import flow

from flows.ingest import DAY_S
from flows.registry import Encoder, Registry
from flows.runs import encoder_folder, settled_folder
from flows.tasks import adapt_task
from model.adapt.report import AdaptReport
from model.adapt.run import is_finished
from model.adapt_config import AdaptConfig
from pipeline.dataset.reader import open_dataset

logger = logging.getLogger(__name__)


@flow(name="adapt", flow_run_name="adapt to {cfg.task}", timeout_seconds=7 * DAY_S)
def adapt_flow(cfg: AdaptConfig, runs: str = "runs", registry: str = "") -> AdaptReport | None:
    """Adapt; None where the schedule finds nothing to do: no encoder is live, or it is adapted already.

    Args:
        cfg: settings of `marlin adapt`; without a dataset version, the newest when the flow begins.
        runs: folder of run folders.
        registry: where given, the encoder that is live there is adapted, on the dataset version that it was trained on.

    Raises:
        ProjectError: the sentence of what could not be done.
    """
    if registry:
        known = Registry(registry)
        live = known.live()
        if live is None:
            logger.info("no encoder is live in %s yet; the first promotion starts this", registry)
            return None
        cfg = adapt_to(cfg, known, live, live, runs)
        if is_finished(done := settled_folder(runs, f"adapt-{cfg.task}", cfg)):
            logger.info("the live encoder is adapted already: %s", done)
            return None
    elif cfg.data.version is None and cfg.data.dataset:
        newest = open_dataset(cfg.data.dataset).version.version  # a run folder for each version
        cfg = cfg.model_copy(update={"data": cfg.data.model_copy(update={"version": newest})})
    return adapt_task(cfg, settled_folder(runs, f"adapt-{cfg.task}", cfg))


def adapt_to(cfg: AdaptConfig, registry: Registry, encoder: Encoder, data_of: Encoder, runs: str) -> AdaptConfig:
    """Return the settings for an encoder of the registry, on the dataset version of the same or of another one."""
    data = cfg.data.model_copy(update={"dataset": data_of.dataset, "version": data_of.dataset_version})
    weights = registry.weights(encoder, encoder_folder(runs))
    return cfg.model_copy(update={"data": data, "weights": str(weights)})
