"""Known datasets on disk: what folders, names and label files tell of each video (docs/ingestion-layouts.md)."""

from __future__ import annotations

from pathlib import PurePath

from pipeline.config import SplitConfig
from pipeline.sources.layouts.celebvhq import CelebVHQ
from pipeline.sources.layouts.described import Described
from pipeline.sources.layouts.faceforensics import FaceForensics
from pipeline.sources.layouts.lrs2 import Lrs2
from pipeline.sources.layouts.mosei import Mosei
from pipeline.sources.layouts.youtube_faces import YouTubeFaces


class Layouts:
    """Recognises the videos of known datasets; label files and split lists are read once."""

    def __init__(self, cfg: SplitConfig | None = None, *, labelled_boxes: bool = False) -> None:
        """Read the official splits that the config names; ``labelled_boxes`` that are used are part of identities.

        Raises:
            ConfigError: one cannot be read, is damaged, or contradicts itself.
        """
        lists = (cfg or SplitConfig()).official
        self._by_name = FaceForensics(lists.get("faceforensics"))
        self._mosei, self._celebvhq = Mosei(lists.get("mosei")), CelebVHQ(lists.get("celebvhq"))
        self._layouts = (
            YouTubeFaces(lists.get("youtube_faces"), labelled_boxes=labelled_boxes),
            self._by_name,
            Lrs2(lists.get("lrs2")),
            self._mosei,
            self._celebvhq,
        )

    def describe(self, path: str, root: str) -> list[Described]:
        """Return the videos that a file or folder of frames holds: one that nothing is known of outside the layouts.

        Args:
            path: absolute path.
            root: absolute path of the source's folder, around which label files are looked for.

        Raises:
            ConfigError: a label file is damaged, or contradicts the split.
        """
        posix = PurePath(path).as_posix()
        told = (layout.describe(posix, root) for layout in self._layouts)
        return next((videos for videos in told if videos is not None), [Described()])

    def lacking(self) -> list[str]:
        """Return a sentence for each label file of CMU-MOSEI or CelebV-HQ that names videos not listed so far."""
        return [sentence for labels in (self._mosei.used, self._celebvhq.used) for sentence in labels.lacking()]

    def describe_name(self, path: str) -> Described:
        """Return what a posix path alone tells of a file that is not on this machine: no label file is looked for."""
        return next(iter(self._by_name.describe(path, "/") or ()), Described())
