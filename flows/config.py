"""Settings of the flows: the settings of each command, and where their results lie."""

from __future__ import annotations

from infra.config import BaseConfig
from model.adapt_config import AdaptConfig
from model.extract_config import ExtractConfig
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
