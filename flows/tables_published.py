"""The published tables (CVPR 2023 slides), as rows and columns with what each row is made of.

Accuracies are in percent and AUCs in [0, 1], as printed there. The masking ablation is with the adversarial loss: its
tube row equals "+ AT".
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Size = Literal["ViT-S", "ViT-B", "ViT-L"]
Mask = Literal["random", "frame", "tube", "fasking"]


class Recipe(NamedTuple):
    """What a row's encoder is: a pretraining of ours, or (``backbone``) a baseline trained from scratch."""

    size: Size = "ViT-B"
    mask: Mask = "fasking"
    adversarial: bool = True
    backbone: Literal["marlin", "r3d", "mvit_v1", "mvit_v2", "xception"] = "marlin"


class Column(NamedTuple):
    """One measured figure of one task; ``percent`` as it is printed. ``second`` is a task to take the mean with."""

    head: str
    task: Literal["deepfake", "appearance", "action", "emotion", "sentiment7", "sentiment2"]
    measure: str
    percent: bool
    second: Literal["action"] | None = None


class Row(NamedTuple):
    """One line: its name, what it is made of (None: only published), how it is adapted, and the published numbers.

    ``mode`` None takes FT for deepfakes and LP for the rest, as the few-shot table shows.
    """

    label: str
    recipe: Recipe | None
    published: tuple[float | None, ...]
    mode: Literal["LP", "FT"] | None = None
    fraction: float = 1.0


class Table(NamedTuple):
    """One table of the paper."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


EMOTION = Column("Emo. Acc.", "emotion", "accuracy", True)
SENTIMENT7 = Column("7-Sent. Acc.", "sentiment7", "accuracy", True)
SENTIMENT2 = Column("2-Sent. Acc.", "sentiment2", "accuracy", True)
FAKE_ACCURACY = Column("FF++ Acc.", "deepfake", "accuracy", True)
FAKE_AUC = Column("FF++ AUC", "deepfake", "auc", False)
ABLATION = (EMOTION, SENTIMENT7, SENTIMENT2, FAKE_ACCURACY, FAKE_AUC)
VIDEOMAE = Recipe(mask="tube", adversarial=False)
MARLIN = Recipe()

TABLES: dict[str, Table] = {
    "modules": Table("modules", "Contribution of different modules", ABLATION, (
        Row("VideoMAE", VIDEOMAE, (80.39, 33.78, 72.96, 87.57, 0.9082)),
        Row("+ Fasking", Recipe(adversarial=False), (80.55, 34.58, 73.54, 87.29, 0.9154)),
        Row("+ AT", Recipe(mask="tube"), (80.58, 34.05, 73.17, 88.00, 0.9096)),
        Row("+ Both (MARLIN)", MARLIN, (80.60, 34.63, 73.70, 89.43, 0.9305)),
    )),
    "encoders": Table("encoders", "Encoder architecture", ABLATION, (
        Row("ViT-S", Recipe(size="ViT-S"), (80.38, 33.40, 72.69, 87.43, 0.8863)),
        Row("ViT-B", MARLIN, (80.60, 34.63, 73.70, 89.43, 0.9305)),
        Row("ViT-L", Recipe(size="ViT-L"), (80.63, 35.28, 74.83, 90.71, 0.9377)),
    )),
    "masking": Table("masking", "Masking strategy", ABLATION, (
        Row("Random", Recipe(mask="random"), (80.40, 34.10, 72.96, 87.29, 0.8797)),
        Row("Frame", Recipe(mask="frame"), (79.33, 33.99, 72.90, 86.57, 0.8835)),
        Row("Tube", Recipe(mask="tube"), (80.58, 34.05, 73.17, 88.00, 0.9096)),
        Row("Fasking", MARLIN, (80.60, 34.63, 73.70, 89.43, 0.9305)),
    )),
    "deepfake": Table("deepfake", "Deepfake detection, FaceForensics++", (FAKE_ACCURACY, FAKE_AUC), (
        Row("Steg. Features", None, (55.98, None)),
        Row("LD-CNN", None, (58.69, None)),
        Row("Constrained Conv.", None, (66.84, None)),
        Row("CustomPooling CNN", None, (61.18, None)),
        Row("MesoNet", None, (70.47, None)),
        Row("Face X-ray", None, (None, 0.6160)),
        Row("Xception", Recipe(backbone="xception"), (86.86, 0.8930), "FT"),
        Row("F³-Net", None, (93.02, 0.9580)),
        Row("P3D", None, (None, 0.6705)),
        Row("R3D", Recipe(backbone="r3d"), (None, 0.8772), "FT"),
        Row("I3D", None, (None, 0.9318)),
        Row("M2TR", None, (None, 0.9395)),
        Row("ST-M2TR", None, (None, 0.9531)),
        Row("VideoMAE", VIDEOMAE, (87.57, 0.9082), "FT"),
        Row("MARLIN", MARLIN, (89.43, 0.9305), "FT"),
    )),
    "emotion": Table("emotion", "Emotion and sentiment, CMU-MOSEI", (EMOTION, SENTIMENT7, SENTIMENT2), (
        Row("MViTv1", Recipe(backbone="mvit_v1"), (80.45, 33.35, None), "FT"),
        Row("UMONS (LAV)", None, (80.68, None, None)),
        Row("GMF (LAV)", None, (81.14, None, None)),
        Row("CAE-LR", None, (None, None, 71.06)),
        Row("VideoMAE", VIDEOMAE, (80.39, 33.78, 72.96)),
        Row("MARLIN", MARLIN, (80.60, 34.63, 73.70)),
    )),
    "attributes": Table("attributes", "Facial attributes, CelebV-HQ", (
        Column("Appearance Acc.", "appearance", "accuracy", True), Column("Appearance AUC", "appearance", "auc", False),
        Column("Action Acc.", "action", "accuracy", True), Column("Action AUC", "action", "auc", False),
        Column("Overall Acc.", "appearance", "accuracy", True, second="action"),
    ), (
        Row("R3D", Recipe(backbone="r3d"), (92.34, 0.9424, 94.57, 0.9173, 93.45), "FT"),
        Row("MViTv1", Recipe(backbone="mvit_v1"), (92.90, 0.9452, 95.13, 0.9233, 94.01), "FT"),
        Row("MViTv2", Recipe(backbone="mvit_v2"), (92.77, 0.954, 95.15, 0.9239, 93.96), "FT"),
        Row("VideoMAE (FT)", VIDEOMAE, (92.91, 0.9529, 95.37, 0.9284, 94.14), "FT"),
        Row("MARLIN (LP)", MARLIN, (91.90, 0.9373, 95.25, 0.9278, 93.57), "LP"),
        Row("MARLIN (FT)", MARLIN, (93.90, 0.9561, 95.48, 0.9406, 94.69), "FT"),
    )),
    "few_shot": Table("few_shot", "Share of the training labels", (
        EMOTION, SENTIMENT7, SENTIMENT2, FAKE_AUC, Column("Appearance AUC", "appearance", "auc", False),
        Column("Action AUC", "action", "auc", False),
    ), (
        Row("100 %", MARLIN, (80.60, 34.63, 73.70, 0.9305, 0.9373, 0.9278)),
        Row("50 %", MARLIN, (80.59, 33.73, 73.33, 0.8681, 0.9273, 0.9270), fraction=0.5),
        Row("10 %", MARLIN, (79.89, 33.56, 72.26, 0.7459, 0.8996, 0.9201), fraction=0.1),
        Row("1 %", MARLIN, (78.61, 30.09, 71.89, 0.6252, 0.8423, 0.9063), fraction=0.01),
    )),
}  # fmt: skip
