"""The page of the main job: the dataset's own sections, then training, adaptation, features and how it was made."""

from __future__ import annotations

from pathlib import Path

from flows.outputs import EndToEndOutputs
from infra.config import config_digest, dump_config
from infra.html import Block, Facts, Figure, Paragraph, Section, Table, page
from infra.metrics import read_metrics
from infra.run import code_revision, package_versions
from model.adapt.report import PAIRS_FILE
from model.charts import loss_curves
from model.mask_picture import draw_masks
from model.nets.config import model_config
from model.train.sources import open_source
from pipeline.dataset.reader import DatasetReader, open_dataset
from pipeline.dataset.report import report_sections


def write_end_to_end_report(outputs: EndToEndOutputs) -> Path:
    """Write the page to ``outputs.report`` and return that path."""
    reader = open_dataset(outputs.dataset, outputs.ingested.version)
    *dataset, making = report_sections(reader)
    text = page(
        "MARLIN, end to end",
        f"Dataset version {outputs.ingested.version}, {outputs.pretrained.steps} steps of pretraining",
        [*dataset, _masks(outputs, reader), _pretraining(outputs), _adaptation(outputs), _features(outputs), making,
         _settings(outputs)],
    )  # fmt: skip
    outputs.report.parent.mkdir(parents=True, exist_ok=True)
    temporary = outputs.report.with_suffix(".part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(outputs.report)
    return outputs.report


def _masks(outputs: EndToEndOutputs, reader: DatasetReader) -> Section:
    cfg = outputs.config.pretrain
    sample = open_source(cfg, reader, cfg.data.split).load(0)
    png = draw_masks(sample, model_config(cfg.model.name, **cfg.model.overrides), cfg.mask.ratio, seed=cfg.seed)
    return Section(
        "Masks",
        "What each strategy hides of one clip (dark), first frame of each tubelet. Every strategy leaves the same "
        "number of tokens visible.",
        [Figure(png, "The clip, then one row a strategy.")],
    )


def _pretraining(outputs: EndToEndOutputs) -> Section:
    report = outputs.pretrained
    score = report.score
    return Section(
        "Pretraining",
        "A masked autoencoder and a discriminator in two DeepSpeed engines; Fasking decides what is hidden.",
        [
            Facts(
                [
                    ("steps", report.steps),
                    ("reconstruction loss, first logged step", report.first["loss/reconstruction"]),
                    ("reconstruction loss, last logged step", report.last["loss/reconstruction"]),
                    (f"error over that of the mean colour ({report.scored_on} clips)", score.against_mean_colour),
                    (f"error over that of the mean face ({report.scored_on} clips)", score.against_mean_face),
                ]
            ),
            Figure(loss_curves(read_metrics(report.run_dir)), "Losses over steps."),
            Figure(
                report.picture.read_bytes(),
                f"Original, masked (hidden patches grey) and reconstructed, {report.scored_on} clips.",
            ),
        ],
    )


def _adaptation(outputs: EndToEndOutputs) -> Section:
    report = outputs.adapted
    rows = [
        (
            {"LP": "linear probe", "FT": "fine-tuned"}[row.mode], row.init, row.accuracy, row.auc,
            "–" if row.auc_low is None else f"{row.auc_low:.3f} to {row.auc_high:.3f}",
            row.clips_train, row.clips_test, row.videos_test, row.people_test,
        )
        for row in report.rows
    ]  # fmt: skip
    head = ("mode", "encoder", "accuracy", "AUC", "95 % interval", "train clips", "test clips", "test videos", "people")
    blocks: list[Block] = [
        Facts(
            [
                ("fakes", report.fakes),
                ("split by", report.split),
                ("videos in all", report.videos),
                ("people", "unknown" if report.people is None else report.people),
            ]
        ),
        Table(head, rows),
        *(Paragraph(note) for note in report.notes),
    ]
    pairs = report.run_dir / PAIRS_FILE
    if pairs.exists():
        blocks.append(Figure(pairs.read_bytes(), "Real clips and the fakes made of them."))
    return Section(
        "Deepfake detection",
        "Real clips against fakes. Few videos stand behind these figures: they show that the job runs, and no more.",
        blocks,
    )


def _features(outputs: EndToEndOutputs) -> Section:
    extracted = outputs.extracted
    if extracted is None:
        return Section("Features", "No video was extracted.")
    rows = [(w.start_frame, w.end_frame, round(w.start_s, 2), round(w.end_s, 2), w.track) for w in extracted.windows]
    return Section(
        "Features",
        f"{extracted.video.name}: one row a window in {extracted.features.name if extracted.features else '–'}.",
        [Table(("first frame", "end frame", "start (s)", "end (s)", "track"), rows)],
    )


def _settings(outputs: EndToEndOutputs) -> Section:
    code = code_revision()
    revision = code["commit"] or "no git checkout"
    return Section(
        "Made with",
        "Enough to make it again.",
        [
            Facts(
                [
                    ("code", revision + (" with local changes" if code.get("dirty") else "")),
                    ("config digest", config_digest(outputs.config)),
                    ("licences of data and weights", "; ".join(outputs.pretrained.licences) or "none stated"),
                    *sorted(package_versions().items()),
                ]
            ),
            Table(("configuration",), [(line,) for line in dump_config(outputs.config).splitlines()]),
        ],
    )
