"""Pulling the plug in the middle of pulls and runs; the last test of its kind, for its rounds go on beside the others."""

from __future__ import annotations

import pytest

from support.vm_plug import ROUNDS, PlugRounds


def test_nothing_is_corrupt_after_power_cuts(plug_rounds: PlugRounds, capsys: pytest.CaptureFixture[str]) -> None:
    """After each: images are complete or absent, rl ps, images, run and pull work; at the end all can be removed."""
    reports = plug_rounds.reports(15 * 60)
    problems = {number: report["problems"] for number, report in enumerate(reports) if report["problems"]}
    with capsys.disabled():
        found = [f"{report.get('images')}/{report.get('containers')}" for report in reports]
        print(f"\npower cuts: images/containers found after each: {' '.join(found)}")
    assert not problems, problems
    assert len(reports) == ROUNDS + 1
    # The cuts hit what they should: there were images and containers to find, and some were missing.
    assert all(report["containers"] for report in reports[1:])
    assert {report["images"] for report in reports[1:]} != {3}
