"""Tests of tools/doc_links.py, which checks links in the documentation."""

from __future__ import annotations

from pathlib import Path

import doc_links
import pytest


@pytest.mark.parametrize(
    ("heading", "slug"),
    [
        ("Where the time goes", "where-the-time-goes"),
        ("Showing more: --bind", "showing-more---bind"),
        ("`@pytest.mark.userns(…)`", "pytestmarkuserns"),
        ("One command: `usernsctl-exec -r true`", "one-command-usernsctl-exec--r-true"),
        ("From [other](tools.md) tools", "from-other-tools"),
        ("bundle_no_user", "bundle_no_user"),
    ],
)
def test_heading_is_found_by_its_fragment(tmp_path: Path, heading: str, slug: str) -> None:
    (tmp_path / "tools.md").touch()
    page = tmp_path / "page.md"
    page.write_text(f"## {heading}\n\n[here](#{slug})\n")
    assert list(doc_links.faults(page)) == []


def test_broken_links_are_reported(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    (tmp_path / "other.md").write_text("# Once\n\n# Once\n\n```sh\n# code\n```\n")
    page.write_text(
        "# Here\n\n[a](#here) [b](other.md#once) [c](other.md#once-1) [d](https://gvisor.dev#x)\n"
        "`[e](gone.md)`\n\n```text\n[f](gone.md)\n```\n\n"
        "[g](gone.md) [h](other.md#code) [i](#there)\n"
    )
    assert list(doc_links.faults(page)) == [
        "gone.md: there is no such file",
        "other.md#code: there is no such heading",
        "#there: there is no such heading",
    ]
