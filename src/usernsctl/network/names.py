"""Rules for the hosts that a sandbox may reach by name: ``NAME[:PORT]`` and ``*.NAME[:PORT]``.

This module imports no slow modules, because the proxy imports it when it starts.
"""

from __future__ import annotations

from usernsctl._lean import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable

DEFAULT_PORTS = (80, 443)
"""The ports of a rule that names no port: HTTP and HTTPS."""

MAX_RULES = 1000

# Maximum length, in characters, of a name without the final dot (RFC 1035, section 2.3.4).
_MAX_NAME = 253
# Maximum length of a label, in characters (RFC 1035, section 2.3.4).
_MAX_LABEL = 63

_DIGITS = frozenset("0123456789")
_HEX_DIGITS = _DIGITS | frozenset("abcdef")
# Characters of a label. Underscores are not valid in host names (RFC 952), but occur in the DNS.
_LABEL = _DIGITS | frozenset("abcdefghijklmnopqrstuvwxyz-_")


class NotAName(ValueError):
    """Error for a text that is not a host name. The message is the reason."""


@dataclass(frozen=True, slots=True, order=True)
class AllowedName:
    """A rule for the names of hosts.

    :ivar name: the name, in lower case and in the ASCII form of international names, without a
        final dot.
    :ivar subdomains: whether the rule allows all subdomains of `name`, but not `name` itself.
    :ivar port: the only allowed port; ``None`` for :data:`DEFAULT_PORTS`.
    """

    name: str
    subdomains: bool = False
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> AllowedName:
        """Parse ``NAME[:PORT]`` or ``*.NAME[:PORT]``, the form of ``--allow``.

        :raises ValueError: `text` is malformed, or is an address.
        """
        host, colon, port = text.partition(":")
        number = _parse_port(text, port) if colon else None
        subdomains = host.startswith("*.")
        try:
            name = normal_name(_to_ascii(host.removeprefix("*.")))
        except NotAName as error:
            raise ValueError(f"{text!r} is not NAME[:PORT] or *.NAME[:PORT]: {error}") from None
        if subdomains and "." not in name:
            raise ValueError(f"{text!r} would allow a whole top-level domain; name the domains")
        if "." not in name:
            raise ValueError(
                f"{text!r} has only one label; write the whole name, such as {name}.example.com"
            )
        return cls(name, subdomains, number)

    def __str__(self) -> str:
        port = "" if self.port is None else f":{self.port}"
        return f"{'*.' if self.subdomains else ''}{self.name}{port}"


class Rules:
    """The names and ports that a sandbox may reach."""

    def __init__(self, rules: Iterable[AllowedName]) -> None:
        self._ports: dict[tuple[str, bool], set[int]] = {}
        for rule in rules:
            ports = DEFAULT_PORTS if rule.port is None else (rule.port,)
            self._ports.setdefault((rule.name, rule.subdomains), set()).update(ports)

    def allow(self, name: str, port: int) -> bool:
        """Return whether a rule allows a port of a host.

        :param name: the host, in the form that :func:`normal_name` returns.
        """
        if port in self._ports.get((name, False), ()):
            return True
        _, dot, parent = name.partition(".")
        while dot:
            if port in self._ports.get((parent, True), ()):
                return True
            _, dot, parent = parent.partition(".")
        return False


def parse_rules(texts: Iterable[str]) -> tuple[AllowedName, ...]:
    """Parse the values of ``--allow`` that are host names; return the distinct rules.

    :raises ValueError: a text is not a rule, or there are more than :data:`MAX_RULES` distinct
        rules.
    """
    return distinct(map(AllowedName.parse, texts))


def distinct(rules: Iterable[AllowedName]) -> tuple[AllowedName, ...]:
    """Return `rules` without duplicates.

    :raises ValueError: there are more than :data:`MAX_RULES` distinct rules.
    """
    once = tuple(dict.fromkeys(rules))
    if len(once) > MAX_RULES:
        raise ValueError(f"{len(once)} allowed names are more than {MAX_RULES}")
    return once


def normal_name(text: str) -> str:
    """Return the name of a host in lower case, without a final dot.

    Numbers that resolvers parse as IPv4 addresses (``127.1``, ``0x7f.1`` or ``2130706433``; see
    inet_aton(3)) are not names.

    :raises NotAName: `text` is an address or is not a name in ASCII.
    """
    if not text.isascii():
        # Reject non-ASCII letters before lower(), which converts some of them to ASCII.
        raise NotAName(f"{text!r} has a character other than letters, digits, '-' and '_'")
    name = text.lower().removesuffix(".")
    if not name:
        raise NotAName("the name is empty")
    if ":" in name or name.startswith("["):
        raise NotAName("an IPv6 address is not a name")
    if len(name) > _MAX_NAME:
        raise NotAName(f"a name has at most {_MAX_NAME} characters, this one {len(name)}")
    labels = name.split(".")
    for label in labels:
        _check_label(label)
    if _is_number(labels[-1]):
        raise NotAName("an address is not a name")
    return name


def _check_label(label: str) -> None:
    if not label:
        raise NotAName("a label of the name is empty")
    if "*" in label:
        raise NotAName("* must be the whole first label, as in *.example.com")
    if not _LABEL.issuperset(label):
        raise NotAName(f"{label!r} has a character other than letters, digits, '-' and '_'")
    if len(label) > _MAX_LABEL:
        raise NotAName(f"{label!r} has more than {_MAX_LABEL} characters")
    if label.startswith("-") or label.endswith("-"):
        raise NotAName(f"{label!r} begins or ends with '-'")


def _is_number(label: str) -> bool:
    """Return whether resolvers parse a name whose last label is `label` as an IPv4 address."""
    if label.startswith("0x"):
        return _HEX_DIGITS.issuperset(label[2:])
    return _DIGITS.issuperset(label)


def _to_ascii(name: str) -> str:
    """Return the ASCII form of an international name (RFC 3490).

    :raises NotAName: the name has no ASCII form, or different ASCII forms in IDNA 2003 and IDNA
        2008, as ``ß`` has.
    """
    try:
        if name.isascii():
            # Check the name by decoding it: a label that begins with xn-- may be invalid Punycode.
            if "xn--" in name.lower():
                name.encode("ascii").decode("idna")
            return name
        ascii_name = name.encode("idna").decode("ascii")
        same = ascii_name.encode("ascii").decode("idna") == name.lower()
    except UnicodeError:
        raise NotAName(f"{name!r} is not a valid international name") from None
    if not same:
        raise NotAName(f"{name!r} has several ASCII forms; write the one that begins with xn--")
    return ascii_name


def _parse_port(text: str, port: str) -> int:
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise ValueError(f"{text!r} is not NAME:PORT: {port!r} is not a port from 1 to 65535")
    return int(port)
