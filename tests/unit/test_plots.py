"""Tests that the plots of tools/plots.py show the measured values."""

from __future__ import annotations

import plots

PRINTED = """\
the aims: theirs / ours, medians of 200 rounds or less        theirs      ours   share    aim
                                                                  ms        ms
runsc by hand / usernsctl run -- true                        124.309   114.020    0.92   1.00
bwrap / usernsctl-exec -r -m: tiny                             2.188     0.524    0.24
"""


def test_comparisons_are_parsed() -> None:
    assert plots.rows(PRINTED) == [
        plots.Row("runsc by hand", "usernsctl run -- true", "", 124.309, 114.02),
        plots.Row("bwrap", "usernsctl-exec -r -m", "tiny", 2.188, 0.524),
    ]


def test_picture_has_a_bar_for_each_result() -> None:
    text = plots.picture()
    for row in plots.rows(plots.RESULTS.read_text()):
        assert f">{row.our_name}" in text
