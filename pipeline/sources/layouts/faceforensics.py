"""FaceForensics++: label, method and compression in folder names; the split as lists of pairs of originals."""

from __future__ import annotations

import re

from infra.errors import ConfigError
from pipeline.config import SplitLists
from pipeline.places import printable
from pipeline.rows import DONOR, LabelValue
from pipeline.sources.layouts.described import Described
from pipeline.sources.layouts.official import official_split

_NUMBERS = re.compile(r"(?P<target>\d+)(?:_(?P<donor>\d+))?(?P<actors>__)?")
_PATH = re.compile(
    r"/(?P<kind>original|manipulated)_sequences/(?P<method>[^/]+)/(?P<compression>c\d+)/videos/(?P<stem>[^/]+)$"
)


class FaceForensics:
    """``original_sequences/<source>/<compression>/videos/NNN.mp4``, ``manipulated_sequences/<method>/…/NNN_MMM.mp4``.

    The identity is that of the first number: an original and the fakes painted into it never part in a split. The
    second, whose face was put there, is the label ``donor``: adaptation keeps people apart by both. The numbers of
    DeepFakeDetection (``NN__scene.mp4``, ``NN_MM__scene__code.mp4``) are of actors, who are numbered by themselves and
    of whom the lists do not speak. All are swapped with one another: beside lists they train, as one.
    """

    def __init__(self, lists: SplitLists | None = None) -> None:
        """Read the split lists, pairs like ``["071", "054"]``: both originals and the fakes of them."""
        self._split_of = official_split(lists)

    def describe(self, path: str, root: str) -> list[Described] | None:
        """Return what the posix path tells; None outside the layout.

        Raises:
            ConfigError: a fake is made of originals of two splits.
        """
        match = _PATH.search(path)
        if match is None:
            return None
        fake = match["kind"] == "manipulated"
        labels: dict[str, LabelValue] = {
            "label": "fake" if fake else "real",
            "manipulation": printable(match["method"]) if fake else "none",
            "compression": match["compression"],
        }
        numbers = _NUMBERS.match(match["stem"])
        if numbers is None:
            return [Described(labels, None)]
        who = "ffpp-actor-" if numbers["actors"] else "ffpp-"
        if fake and numbers["donor"]:
            labels[DONOR] = who + numbers["donor"]
        split = self._split(match["stem"]) if not numbers["actors"] else "train" if self._split_of else None
        return [Described(labels, who + numbers["target"], split)]

    def _split(self, stem: str) -> str | None:
        numbers = re.fullmatch(r"(\d+)(?:_(\d+))?\..*", stem)
        found = {self._split_of[name] for name in (numbers.groups() if numbers else ()) if name in self._split_of}
        if len(found) > 1:
            raise ConfigError(
                f"{stem} is made of originals of two splits ({' and '.join(sorted(found))}), which no pair of "
                "FaceForensics++ is; give the official lists of pairs, or take the file out"
            )
        return found.pop() if found else None
