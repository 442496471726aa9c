"""Tests of tools/root_pages.py: links must lead to the same page in the tree and on the website."""

from __future__ import annotations

from pathlib import Path

import pytest
import root_pages


@pytest.mark.parametrize(
    ("written", "copied"),
    [
        ("[a](docs/maps.md#ids)", "[a](../maps.md#ids)"),
        ("[a](SECURITY.md#reporting)", "[a](security.md#reporting)"),
        ("[a](LICENSE)", "[a](../../LICENSE)"),
        ("[a](https://gvisor.dev/docs/)", "[a](https://gvisor.dev/docs/)"),
        ("[a](#install)", "[a](#install)"),
        ("a docs/maps.md (docs/maps.md)", "a docs/maps.md (docs/maps.md)"),
    ],
)
def test_copied_page_keeps_the_targets_of_links(written: str, copied: str) -> None:
    assert root_pages.copy_text(written) == copied


@pytest.mark.parametrize(
    ("written", "linked"),
    [
        ("[a](../SECURITY.md#reporting)", "[a](project/security.md#reporting)"),
        ("[a](../../README.md)", "[a](../project/readme.md)"),
        ("[a](../examples/README.txt)", "[a](../examples/README.txt)"),
        ("[a](maps.md)", "[a](maps.md)"),
    ],
)
def test_links_to_copied_pages_are_rewritten(written: str, linked: str) -> None:
    assert root_pages.link_copies(written) == linked


def test_unchanged_pages_keep_their_time_and_old_ones_are_deleted(tmp_path: Path) -> None:
    root_pages.write_changed(tmp_path / "made", {"a": "1", "b": "2"})
    before = (tmp_path / "made" / "a").stat().st_mtime_ns
    root_pages.write_changed(tmp_path / "made", {"a": "1"})
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["a"]
    assert (tmp_path / "made" / "a").stat().st_mtime_ns == before
