"""Tests of tools/root_pages.py: links lead to the same page in the tree and on the site."""

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
def test_a_copy_links_to_what_the_page_links_to(written: str, copied: str) -> None:
    assert root_pages.copy_text(written) == copied


@pytest.mark.parametrize(
    ("written", "led"),
    [
        ("[a](../SECURITY.md#reporting)", "[a](project/security.md#reporting)"),
        ("[a](../../README.md)", "[a](../project/readme.md)"),
        ("[a](../examples/README.txt)", "[a](../examples/README.txt)"),
        ("[a](maps.md)", "[a](maps.md)"),
    ],
)
def test_a_page_links_to_the_copy(written: str, led: str) -> None:
    assert root_pages.link_copies(written) == led


def test_what_has_not_changed_keeps_its_time_and_what_is_gone_goes(tmp_path: Path) -> None:
    root_pages.write_changed(tmp_path / "made", {"a": "1", "b": "2"})
    before = (tmp_path / "made" / "a").stat().st_mtime_ns
    root_pages.write_changed(tmp_path / "made", {"a": "1"})
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["a"]
    assert (tmp_path / "made" / "a").stat().st_mtime_ns == before
