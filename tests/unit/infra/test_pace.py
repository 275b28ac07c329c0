"""How often one host is asked."""

from __future__ import annotations

from infra.pace import Pace


def test_a_host_is_asked_in_bursts_and_then_at_its_rate_and_pauses_when_it_says_so() -> None:
    """Bug caught: a rate for each thread alone, one slow host that slows another, a pause that is ignored."""
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(round(seconds, 3))
        now[0] += seconds

    pace = Pace(2.0, 3, clock=lambda: now[0], sleep=sleep)
    for _ in range(5):
        pace.wait("a")
    assert slept == [0.5, 0.5]
    pace.wait("b")
    assert slept == [0.5, 0.5]
    now[0] += 100
    for _ in range(4):
        pace.wait("a")
    assert slept == [0.5, 0.5, 0.5]
    pace.pause("a", 30)
    pace.wait("a")
    assert 30 <= slept[-1] <= 31
