"""``improve_flow``: continued pretraining → adaptation → gate → promotion, when enough new clips have come.

The registry says what is live and what is in the making, the dataset what there is: a run that died is run again.
"""

from __future__ import annotations

import logging
from pathlib import Path

from prefect import flow, tags
from prefect.artifacts import create_markdown_artifact

from flows.adapt import adapt_flow, adapt_to
from flows.automations import PART_TAG
from flows.config import ImproveConfig
from flows.events import ENCODER_PROMOTED, post_event, registry_resource
from flows.ingest import DAY_S
from flows.plan import Idle, due_attempt
from flows.pretrain import pretrain_flow
from flows.registry import Action, Attempt, Decision, Encoder, Registry, live_version
from flows.runs import encoder_folder, settled_folder
from infra.errors import ConfigError, ProjectError
from infra.run import REFUSALS
from infra.storage import Storage, open_storage
from model.adapt.encoders import refuse_learnt_labels
from model.adapt.run import is_finished
from model.gate import Verdict, compare
from model.licences import non_commercial
from model.pretrain import PretrainReport
from model.train.networks import first_weights
from pipeline.dataset.versions import VersionRecord, list_versions, newest_version, read_version

logger = logging.getLogger(__name__)


@flow(name="improve", flow_run_name="improve {cfg.registry}", timeout_seconds=90 * DAY_S)
def improve_flow(cfg: ImproveConfig) -> Decision | None:
    """Make a candidate if one is due, measure it, and promote it when it is not worse than the live encoder.

    Returns:
        What was decided, None where nothing was due.

    Raises:
        ProjectError: the sentence of what could not be done; the same run again goes on.
    """
    registry = Registry(cfg.registry)
    attempt = _attempt(cfg, registry)
    if isinstance(attempt, Idle):
        create_markdown_artifact(key="decision", markdown=attempt.why)
        return None
    parent = None if attempt.parent is None else registry.encoder(attempt.parent)
    with tags(PART_TAG):
        candidate = _candidate(cfg, registry, attempt, parent)
        try:
            decision = _decided(cfg, registry, candidate)
        except REFUSALS as error:
            raise type(error)(
                f"registry version {candidate.number} cannot be measured: {error}. It stays on version "
                f"{attempt.dataset_version} of the dataset; to have the next one made on a newer version, "
                f"`marlin registry abandon {cfg.registry} --why …`"
            ) from error
    if decision.action == "promote":  # before the end of the attempt: a run that dies in between says it again
        post_event(ENCODER_PROMOTED, registry_resource(cfg.registry), {"version": candidate.number})
    registry.end()
    create_markdown_artifact(key="decision", markdown=f"version {candidate.number}: {decision.action}, {decision.why}")
    return decision


def _attempt(cfg: ImproveConfig, registry: Registry) -> Attempt | Idle:
    """Return the attempt that an earlier run left unfinished, else a new one, written down before the work begins."""
    storage = open_storage(cfg.pretrain.data.dataset)
    abandoned = registry.abandoned()
    begun = registry.attempt()
    if begun is not None:
        is_wanted = not (cfg.from_scratch and begun.parent) and all(row.attempt != begun for row in abandoned)
        if is_wanted and begun.dataset == storage.uri and _can_be_read(storage, begun.dataset_version):
            return begun
        registry.end()  # it was taken down, and what is being learnt from it must not go on; or another is wanted
    if not list_versions(storage):
        return Idle(f"{storage.uri} holds no version yet")
    newest = newest_version(storage)
    live = None if cfg.from_scratch else registry.live()
    wanted = Attempt(
        dataset=storage.uri, dataset_version=newest.version, clips=newest.counts.clips,
        parent=live.number if live else None,
    )  # fmt: skip
    due = due_attempt(wanted, _counted(cfg, registry, storage), abandoned, cfg.min_new_clips)
    if isinstance(due, Attempt):
        registry.begin(due)
    return due


def _counted(cfg: ImproveConfig, registry: Registry, storage: Storage) -> list[Encoder]:
    """What new clips count from: of encoders from scratch, only those that learnt nothing that was taken down."""
    decided = [encoder for encoder in registry.decided() if encoder.dataset == storage.uri]
    if not cfg.from_scratch:
        return decided
    return [one for one in decided if one.parent is None and _can_be_read(storage, one.dataset_version)]


def _can_be_read(storage: Storage, version: int) -> bool:
    return isinstance(read_version(storage, version), VersionRecord)


def _candidate(cfg: ImproveConfig, registry: Registry, attempt: Attempt, parent: Encoder | None) -> Encoder:
    """Pretrain from the parent on the pinned version, and register what came out.

    What began with weights that learnt labels could not be measured afterwards, so it is refused before.
    """
    data = cfg.pretrain.data.model_copy(update={"version": attempt.dataset_version})
    start = cfg.pretrain.init_from if parent is None else str(registry.weights(parent, encoder_folder(cfg.runs)))
    settings = cfg.pretrain.model_copy(update={"data": data, "init_from": start})
    try:
        begun = first_weights(settings)
    except ConfigError as error:
        if parent is None:
            raise
        raise ConfigError(f"{error}, or set from_scratch=true of improve to begin without it") from error
    if begun is not None:
        refuse_learnt_labels(str(start), begun.provenance)
    trained = pretrain_flow(settings, cfg.runs)

    def made(number: int, created: str, sha256: str) -> Encoder:
        return Encoder(
            number=number, created=created, sha256=sha256, run=str(trained.run_dir), dataset=attempt.dataset,
            dataset_version=attempt.dataset_version, clips=attempt.clips, parent=attempt.parent,
            licences=_licences(trained, parent),
        )  # fmt: skip

    return registry.register(trained.weights, made)


def _licences(trained: PretrainReport, parent: Encoder | None) -> tuple[str, ...]:
    """Everything behind the weights: the dataset's parts, and those of what the training began with.

    The registry knows a parent's in full; its file may be older than what files say of them.
    """
    behind = trained.licences if parent is None else (*trained.dataset_licences, *parent.licences)
    return tuple(sorted(set(behind)))


def _decided(cfg: ImproveConfig, registry: Registry, candidate: Encoder) -> Decision:
    """Return what is decided about the candidate; a run that died after deciding does not decide again.

    Measuring takes hours: where a person decides something meanwhile, the candidate is held against what is live then.
    """
    while True:
        history = registry.decisions()
        for decision in history:
            if decision.version == candidate.number:
                return decision
        for given_up in registry.abandoned():
            if given_up.attempt == candidate.attempt:
                raise ProjectError(f"the candidate was abandoned while it was made: {given_up.why}")
        number = live_version(history)
        verdict = _verdict(cfg, registry, candidate, None if number is None else registry.encoder(number))
        action: Action = "promote" if verdict.passed else "refuse"
        decided = registry.decide_after(history, action, candidate.number, verdict.why, verdict.scores)
        if decided is not None:
            return decided
        logger.info("something was decided while version %d was measured; it is compared anew", candidate.number)


def _verdict(cfg: ImproveConfig, registry: Registry, candidate: Encoder, live: Encoder | None) -> Verdict:
    """Adapt the candidate and the live encoder alike on the candidate's dataset version, and compare."""
    scored = _scored(cfg, registry, candidate, candidate)
    if cfg.commercial_use and (closed := non_commercial(candidate.licences, cfg.commercial_licences)):
        return Verdict(False, f"commercial_use is set, and behind it stand {'; '.join(closed)}", {})
    if live is None:
        return Verdict(True, "the first encoder of this registry", {})
    return compare(scored, _scored(cfg, registry, live, candidate), cfg.gate, seed=cfg.adapt.seed)


def _scored(cfg: ImproveConfig, registry: Registry, encoder: Encoder, candidate: Encoder) -> Path:
    """Return the finished run folder of an encoder's adaptation on the candidate's dataset version."""
    settings = adapt_to(cfg.adapt, registry, encoder, candidate, cfg.runs)
    folder = settled_folder(cfg.runs, f"adapt-{settings.task}", settings)
    if not is_finished(folder):
        adapt_flow(settings, cfg.runs)
    return folder
