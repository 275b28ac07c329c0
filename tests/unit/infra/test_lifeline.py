"""Children that do not outlive who started them."""

from __future__ import annotations

import subprocess
import sys

import pytest

STARTS_AND_ENDS = """
import os, subprocess, sys
subprocess.Popen([sys.executable, "-c", *sys.argv[1:], str(os.getpid())])
"""

SLOW_TO_BEGIN = """
import os, sys, time
from infra.lifeline import die_with
starter = int(sys.argv[2])
while os.getppid() == starter:
    time.sleep(0.01)
die_with(starter if sys.argv[1] == "known" else 0)
print("stays")
"""


@pytest.mark.parametrize(("starter", "said"), [("known", ""), ("unknown", "stays\n")])
def test_a_child_that_begins_after_its_parent_s_end_ends(starter: str, said: str) -> None:
    """Catches a rank or a reader that was still importing when its parent was killed, and stayed for good."""
    command = [sys.executable, "-c", STARTS_AND_ENDS, SLOW_TO_BEGIN, starter]
    assert subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60).stdout == said
