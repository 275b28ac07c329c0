"""What a run shows in Prefect: progress, tables, curves, links. Faces and names of videos stay out of its database.

A takedown reaches dataset and run folders and not Prefect's database, so pictures of faces are links to files.
"""

from __future__ import annotations

import base64
import logging
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import httpx
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.exceptions import ObjectNotFound

from infra.progress import progress_line
from model.adapt.report import PAIRS_FILE, AdaptReport
from model.pretrain import PretrainReport
from pipeline.ingest import IngestReport

logger = logging.getLogger(__name__)


class ShownProgress:
    """A progress artifact that is made with the first state, and changed with each further one.

    What is shown does not end because it cannot be shown: a server that does not answer is warned of once, until it
    does again. What ends a run (a cancellation, a time limit) is no error of the server's, and passes.
    """

    def __init__(self, key: str) -> None:
        self._key = key
        self._id: UUID | None = None
        self._unheard = False

    def __call__(self, state: dict[str, Any]) -> None:
        """Show what ``progress.json`` says, without its note, which may be a video's name."""
        done, total = float(state["done"] or 0), float(state["total"] or 0)
        percent = min(100 * done / total, 100.0) if total else 0.0
        line = progress_line({**state, "note": ""})
        try:
            self._show(percent, line)
            self._unheard = False
        except (httpx.HTTPError, ObjectNotFound) as error:
            if not self._unheard:
                logger.warning(
                    "%s is not shown for now (%s: %s); the work goes on", self._key, type(error).__name__, error
                )
            self._unheard = True

    def _show(self, percent: float, line: str) -> None:
        if self._id is None:
            self._id = cast(UUID, create_progress_artifact(percent, key=self._key, description=line))
        else:
            update_progress_artifact(self._id, percent, description=line)


def show_ingest(report: IngestReport, page: Path | None) -> None:
    """Show the counts of an ingest, from listed to stored, and its page."""
    rows: dict[str, Any] = {"listed now": report.listed, "treated now": report.treated, "clips made now": report.clips}
    rows |= {f"rejected now: {reason}": count for reason, count in report.rejects.items()}
    rows |= {f"{name} in version {report.version}": count for name, count in report.counts.model_dump().items()}
    create_table_artifact(
        key="funnel",
        table=[{"what": name, "count": count} for name, count in rows.items()],
        description=f"Version {report.version}: {'new' if report.new else 'nothing new'}, {report.wall_s:.0f} s",
    )
    if page is not None:
        link("dataset-report", page, "the dataset's report")


def show_pretraining(report: PretrainReport, curves_png: bytes) -> None:
    """Show what pretraining reached, and its curves."""
    create_markdown_artifact(
        key="pretraining",
        markdown=(
            f"{report.steps} steps on dataset version {report.dataset_version}; reconstruction loss "
            f"{report.first['loss/reconstruction']:.4f} → {report.last['loss/reconstruction']:.4f}; "
            f"error over that of the mean colour: {report.score.against_mean_colour:.2f} ({report.scored_on} clips)\n\n"
            + "\n".join(f"- {licence}" for licence in report.licences)
        ),
    )
    data = base64.b64encode(curves_png).decode()
    create_image_artifact(f"data:image/png;base64,{data}", key="losses", description="Losses over steps")
    link("reconstruction", report.picture, "reconstructed clips")


def show_adaptation(report: AdaptReport) -> None:
    """Show the table of an adaptation with the sentences that belong to it."""
    create_table_artifact(
        key="adaptation",
        table=[
            {"mode": row.mode, "encoder": row.init, "accuracy": row.accuracy, "AUC": row.auc} for row in report.rows
        ],
        description=" ".join(report.notes),
    )
    if (pairs := report.run_dir / PAIRS_FILE).exists():
        link("pairs", pairs, "pairs of real and fake")


def link(key: str, path: Path, text: str) -> None:
    """Show where a file lies."""
    create_link_artifact(key=key, link=path.absolute().as_uri(), link_text=text)
