"""Settings of the flows: the settings of each command, and where their results lie."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from infra.config import BaseConfig
from model.adapt_config import AdaptConfig
from model.extract_config import ExtractConfig
from model.gate import GateConfig
from model.licences import COMMERCIAL
from model.train_config import PretrainConfig
from pipeline.config import IngestConfig


class EndToEndConfig(BaseConfig):
    """Settings of the flow ``end_to_end``: videos → dataset → encoder → detector → features → report."""

    work: str = "work/demo"
    """Folder of everything the flow makes: samples, dataset, runs, features, report."""
    use_samples: bool = True
    """Fetch the sample videos and ingest them beside ``ingest.sources``."""
    ingest: IngestConfig = IngestConfig()
    """Settings of ingestion; ``out`` is set to ``<work>/dataset``."""
    pretrain: PretrainConfig = PretrainConfig()
    """Settings of pretraining; the dataset is the one just made."""
    adapt: AdaptConfig = AdaptConfig()
    """Settings of adaptation to deepfake detection; dataset and weights are the ones just made."""
    extract: ExtractConfig = ExtractConfig()
    """Settings of feature extraction; weights are the ones just made."""


class ImproveConfig(BaseConfig):
    """Settings of the flow ``improve``: when and how a new encoder is made, and when it goes live."""

    registry: str = "registry"
    """Folder or s3://bucket/prefix of the registry."""
    runs: str = "runs"
    """Folder of run folders; all workers of the training pool must see it."""
    min_new_clips: int = Field(default=1000, ge=1)
    """Clips that have come since the last candidate before a new one is made."""
    from_scratch: bool = False
    """Begin as the very first candidate did, and not with the live encoder: after a takedown, or with another
    ``pretrain.model``. Set it back once the candidate is decided on."""
    pretrain: PretrainConfig = PretrainConfig()
    """Pretraining: ``data.dataset`` is watched; version and, once an encoder is live, ``init_from`` are set by the
    flow. With ``init_from`` given, the very first candidate begins there."""
    adapt: AdaptConfig = AdaptConfig(task="deepfake")
    """Adaptation that measures an encoder; dataset, version and weights are set by the flow."""
    gate: GateConfig = GateConfig()
    """When the candidate is not worse."""
    commercial_use: bool = False
    """Promote only what no non-commercial part stands behind."""
    commercial_licences: tuple[str, ...] = COMMERCIAL
    """Licences, as sources and weights state them, that commercial use is allowed under; every other one is not."""

    @model_validator(mode="after")
    def _what_the_gate_compares_is_made(self) -> Self:
        """Found after days of training otherwise."""
        if self.adapt.task != "deepfake":
            raise ValueError(
                f"adapt.task is {self.adapt.task!r} and the gate compares scores of real and fake; set it to deepfake "
                "(what a live encoder is adapted to besides is in adaptations)"
            )
        if self.adapt.backbone != "marlin":
            raise ValueError(f"adapt.backbone is {self.adapt.backbone}, which is no candidate; set it to marlin")
        if self.gate.mode == "FT" and not self.adapt.finetune.enabled:
            raise ValueError(
                "gate.mode is FT and adapt.finetune.enabled is false, so that nothing is compared; "
                "set the one to LP or the other to true"
            )
        return self


class LineageConfig(BaseConfig):
    """Settings of ``marlin lineage``."""

    thing: str = ""
    """A video (name, path or digest), a clip's key, v3 for a dataset version, a run folder, a weight file, or
    registry:3 for an encoder."""
    dataset: str = ""
    """Folder or s3://bucket/prefix of the dataset."""
    registry: str = ""
    """Folder or s3://bucket/prefix of the registry."""
    runs: tuple[str, ...] = ("runs", "work/*")
    """Folders (globs) below which runs are looked for."""


class RegistryConfig(BaseConfig):
    """Settings of ``marlin registry``."""

    registry: str = "registry"
    """Folder or s3://bucket/prefix of the registry."""
    version: int | None = Field(default=None, ge=1)
    """Version to promote."""
    why: str = ""
    """The reason, in one sentence; it stays in the registry."""
    commercial_use: bool = False
    """Refuse to promote what a non-commercial part stands behind."""
    commercial_licences: tuple[str, ...] = COMMERCIAL
    """As in the settings of the flow ``improve``."""
