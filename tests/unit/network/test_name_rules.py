"""Tests of --allow with names: NAME[:PORT] and *.NAME[:PORT]."""

from __future__ import annotations

import pytest

from usernsctl.network import names
from usernsctl.network.names import AllowedName, NotAName, Rules, normal_name, parse_rules


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("example.com", AllowedName("example.com")),
        ("EXAMPLE.Com.", AllowedName("example.com")),
        ("example.com:8080", AllowedName("example.com", port=8080)),
        ("example.com.:1", AllowedName("example.com", port=1)),
        ("*.example.com:65535", AllowedName("example.com", subdomains=True, port=65535)),
        ("_dmarc.a-b.x1", AllowedName("_dmarc.a-b.x1")),
        ("bücher.example", AllowedName("xn--bcher-kva.example")),
        ("*.BÜCHER.example", AllowedName("xn--bcher-kva.example", subdomains=True)),
        ("xn--bcher-kva.example", AllowedName("xn--bcher-kva.example")),
    ],
)
def test_name_rule_is_parsed_and_printed_in_normal_form(text: str, rule: AllowedName) -> None:
    assert AllowedName.parse(text) == rule
    assert AllowedName.parse(str(rule)) == rule


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the name is empty"),
        (".", "the name is empty"),
        ("..", "a label of the name is empty"),
        (":443", "the name is empty"),
        ("a..b", "a label of the name is empty"),
        (".example.com", "a label of the name is empty"),
        ("example.com..", "a label of the name is empty"),
        ("example.com:", "'' is not a port"),
        ("example.com:0", "'0' is not a port"),
        ("example.com:65536", "'65536' is not a port"),
        ("example.com:80-90", "'80-90' is not a port"),
        ("example.com:80,443", "'80,443' is not a port"),
        ("example.com:*", "'*' is not a port"),
        ("example.com:+80", "'+80' is not a port"),
        ("example.com: 80", "' 80' is not a port"),
        ("example.com:\uff18\uff10", "is not a port"),
        ("example.com:443:443", "'443:443' is not a port"),
        ("*", "* must be the whole first label"),
        ("*.", "the name is empty"),
        ("*.com", "a whole top-level domain"),
        ("localhost", "has only one label"),
        ("registry.:5000", "write the whole name, such as registry.example.com"),
        ("a.*.com", "* must be the whole first label"),
        ("*a.example.com", "* must be the whole first label"),
        ("*.*.example.com", "* must be the whole first label"),
        ("**.example.com", "* must be the whole first label"),
        ("exa mple.com", "a character other than"),
        ("example.com/path", "a character other than"),
        ("user@example.com", "a character other than"),
        ("https://example.com", "is not a port"),
        ("ex%61mple.com", "a character other than"),
        ("example.com\n", "a character other than"),
        ("example.com\0", "a character other than"),
        ("-a.example", "begins or ends with '-'"),
        ("a-.example", "begins or ends with '-'"),
        (f"{'a' * 64}.example", "more than 63 characters"),
        (".".join(["a" * 49] * 6), "at most 253 characters"),
        ("127.0.0.1", "an address is not a name"),
        ("127.1", "an address is not a name"),
        ("2130706433", "an address is not a name"),
        ("0x7f000001", "an address is not a name"),
        ("0177.0.0.1", "an address is not a name"),
        ("example.0x1", "an address is not a name"),
        ("example.0x", "an address is not a name"),
        ("[::1]:80", "is not a port"),
        ("straße.example", "several ASCII forms"),
        ("xn--\u00fc.example", "not a valid international name"),
        ("xn--a-ecp.ru", "not a valid international name"),
        ("a\u3002b.example\u3002com..", "not a valid international name"),
    ],
)
def test_error_of_a_malformed_rule_has_text_and_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=r"^'.*'") as caught:
        AllowedName.parse(text)
    assert repr(text) in str(caught.value)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rule_without_a_port_allows_ports_80_and_443() -> None:
    rules = Rules([AllowedName("example.com")])
    assert rules.allow("example.com", 80)
    assert rules.allow("example.com", 443)
    assert not rules.allow("example.com", 8080)
    assert not rules.allow("www.example.com", 443)
    assert not rules.allow("com", 443)
    assert not rules.allow("notexample.com", 443)


def test_wildcard_allows_subdomains_only() -> None:
    rules = Rules(parse_rules(["*.example.com:8443"]))
    assert rules.allow("a.example.com", 8443)
    assert rules.allow("a.b.example.com", 8443)
    assert not rules.allow("example.com", 8443)
    assert not rules.allow("aexample.com", 8443)
    assert not rules.allow("a.example.com.evil.org", 8443)
    assert not rules.allow("a.example.com", 443)


def test_rules_for_the_same_name_add_up() -> None:
    rules = Rules(parse_rules(["example.com", "example.com:22", "example.com:22", "*.example.com"]))
    assert [rules.allow("example.com", port) for port in (22, 80, 443, 23)] == [
        True,
        True,
        True,
        False,
    ]


def test_equal_rules_are_merged() -> None:
    texts = ["example.com", "EXAMPLE.com.", "example.com:80", "*.example.com"]
    assert list(map(str, parse_rules(texts))) == ["example.com", "example.com:80", "*.example.com"]


def test_number_of_rules_is_limited() -> None:
    texts = [f"n{number}.example" for number in range(names.MAX_RULES + 1)]
    assert len(parse_rules(texts[1:])) == names.MAX_RULES
    with pytest.raises(ValueError, match="1001 allowed names are more than 1000"):
        parse_rules(texts)


@pytest.mark.parametrize(
    "text", ["\uff45xample.com", "example\u3002com", "EXAMPLE.COM\u200b", "\u0131.com"]
)
def test_requested_name_must_be_ascii(text: str) -> None:
    with pytest.raises(NotAName):
        normal_name(text)


def test_kelvin_sign_is_not_an_ascii_letter() -> None:
    # Check that the Kelvin sign (U+212A), which str.lower() turns into an ASCII "k", is rejected.
    with pytest.raises(NotAName):
        normal_name("\u212a.example")
