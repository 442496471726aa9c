"""Tests of --allow with addresses and address ranges."""

from __future__ import annotations

import re

import pytest

from usernsctl.network.names import AllowedName
from usernsctl.network.ranges import AllowedRange, parse_allowed


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("198.51.100.0/24", AllowedRange("198.51.100.0/24")),
        ("198.51.100.7", AllowedRange("198.51.100.7/32")),
        ("198.51.100.7:443", AllowedRange("198.51.100.7/32", 443, 443)),
        ("0.0.0.0/0:80-90", AllowedRange("0.0.0.0/0", 80, 90)),
        ("2001:db8::/32", AllowedRange("2001:db8::/32")),
        ("[2001:db8::/32]", AllowedRange("2001:db8::/32")),
        ("[2001:db8::7]:65535", AllowedRange("2001:db8::7/128", 65535, 65535)),
        ("web.example:443", AllowedName("web.example", port=443)),
        ("*.web.example", AllowedName("web.example", subdomains=True)),
    ],
)
def test_rule_is_parsed(text: str, rule: AllowedName | AllowedRange) -> None:
    assert parse_allowed(text) == rule
    assert parse_allowed(str(rule)) == rule


@pytest.mark.parametrize(
    "text",
    [
        "198.51.100.7/24",
        "198.51.100.0/33",
        "198.51.100.0/",
        "300.1.1.1",
        "10.1",
        "198.51.100.0/24:0",
        "198.51.100.0/24:65536",
        "198.51.100.0/24:90-80",
        "198.51.100.0/24:",
        "198.51.100.0/24:http",
        "198.51.100.0/24:1-2-3",
        "[2001:db8::/32",
        "[2001:db8::/32]443",
        "[2001:db8::/32]:",
        "::ffff:198.51.100.7",
        "::ffff:0:0/96",
        "fe80::1%eth0",
        "fe80::1%eth0 } accept",
        "2130706433",
        "0x7f000001/8",
        "١٢٧.0.0.1",
        "",
    ],
)
def test_malformed_rule_raises(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        parse_allowed(text)


def test_condition_has_the_family_and_the_ports() -> None:
    assert AllowedRange("2001:db8::/32").condition == "ip6 daddr 2001:db8::/32"
    assert (
        AllowedRange("198.51.100.0/24", 80, 90).condition
        == "ip daddr 198.51.100.0/24 meta l4proto { tcp, udp } th dport 80-90"
    )


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("https://example.org", "example.org"),
        ("https://example.org:8443/simple/", "example.org:8443"),
        ("http://198.51.100.7/", "198.51.100.7"),
        ("example.org/simple", "example.org"),
        ("*.example.org:8443/", "*.example.org:8443"),
    ],
)
def test_url_is_refused_with_its_host(text: str, host: str) -> None:
    with pytest.raises(ValueError, match=rf" is a URL, .* write {re.escape(host)}$"):
        parse_allowed(text)
