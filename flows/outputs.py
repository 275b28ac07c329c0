"""What the main job made, handed from the flow to the report and to the person."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flows.config import EndToEndConfig
from model.adapt.report import AdaptReport
from model.extract import ExtractedVideo
from model.pretrain import PretrainReport
from pipeline.ingest import IngestReport


@dataclass(frozen=True)
class EndToEndOutputs:
    """Results of each step; ``extracted`` is None where no sample video was used; ``report`` is the page's path."""

    config: EndToEndConfig
    dataset: str
    ingested: IngestReport
    pretrained: PretrainReport
    adapted: AdaptReport
    extracted: ExtractedVideo | None
    report: Path

    def lines(self) -> list[str]:
        """Return what a person wants to know at the end, one line each."""
        found = [
            f"report     {self.report}",
            f"dataset    {self.dataset} (version {self.ingested.version})",
            f"weights    {self.pretrained.weights}",
            f"run        {self.pretrained.run_dir}",
            f"adaptation {self.adapted.run_dir}",
        ]
        if self.extracted is not None and self.extracted.features is not None:
            found.append(f"features   {self.extracted.features}")
        return found
