"""Tests of the addresses that the proxy denies, even if an allowed name resolves to them."""

from __future__ import annotations

import ipaddress
import socket

import pytest

from usernsctl.network import addresses
from usernsctl.network.addresses import is_own, refusal

_REFUSED = """
0.0.0.0 0.1.2.3 10.0.0.0 10.255.255.255 100.64.0.1 100.100.100.200 127.0.0.1 127.255.255.255
169.254.169.254 169.254.170.2 172.16.0.1 172.31.255.255 192.0.0.192 192.0.2.1 192.168.1.1
192.88.99.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1
255.255.255.255 168.63.129.16
:: ::1 ::7f00:1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 64:ff9b::7f00:1 64:ff9b::808:808 64:ff9b:1::a00:1
100::1 fc00::1 fd00:ec2::254 fd20:ce::254 fe80::1 fe80::a9fe:a9fe fec0::1 ff02::1 2001::1
2001:0:7f00:1:: 2001:10::1 2001:20::1 2001:db8::1 2002:7f00:1:: 2002:a00:1::1 3fff::1 5f00::1
4000::1 fe80::1%lo
"""

_ALLOWED = """
1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.1
169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 192.0.1.0 192.167.255.255 192.169.0.0
198.17.255.255 198.20.0.0 223.255.255.255 168.63.129.17
2001:200::1 2001:4860:4860::8888 2003::1 2606:4700::1111 2a00::1 3ffe::1
"""


def family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


@pytest.mark.parametrize("address", _REFUSED.split())
def test_address_outside_the_public_internet_is_refused(address: str) -> None:
    assert refusal(family(address), address)


@pytest.mark.parametrize("address", _ALLOWED.split())
def test_public_address_is_not_refused(address: str) -> None:
    assert refusal(family(address), address) is None


def test_networks_that_python_calls_private_are_refused() -> None:
    """Check the first and last address of each private or multicast network in `ipaddress`.

    The proxy must deny the address if Python considers it non-global or multicast.
    """
    for version in (4, 6):
        constants = getattr(ipaddress, f"_IPv{version}Constants")
        for network in (*constants._private_networks, constants._multicast_network):
            for address in (network.network_address, network.broadcast_address):
                if not address.is_global or address.is_multicast:
                    assert refusal(family(str(address)), str(address)), address


def test_other_address_families_are_refused() -> None:
    assert refusal(socket.AF_UNIX, "/run/x")


def test_own_address_is_recognised_by_its_route() -> None:
    assert is_own(socket.AF_INET, "127.0.0.1")
    # Also try an address without a route on this host: 3fff::1 is reserved for documentation.
    assert not is_own(socket.AF_INET6, "3fff::1")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        bytes(16),
        bytes.fromhex("1000000018000000") + bytes(8),
        # Netlink errors: EOPNOTSUPP here, EPERM in the next line.
        bytes.fromhex("2400000002000000") + bytes(8) + bytes.fromhex("a1ffffff"),
        bytes.fromhex("2400000002000000") + bytes(8) + bytes.fromhex("ffffffff"),
        OSError(),
    ],
)
def test_address_counts_as_own_without_an_answer_of_the_kernel(
    answer: bytes | OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*_: object) -> bytes:
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(addresses, "_ask_route", ask)
    assert is_own(socket.AF_INET, "1.1.1.1")
