"""Which addresses are refused at the socket: one table, every notation that hides an address included."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.addresses import embedded, is_forbidden, parse_address

NEVER, PRIVATE, ALWAYS = "never", "unless private networks are blocked", "always"

TABLE = [
    # this host, and what Linux takes for it
    ("0.0.0.0", NEVER),
    ("0.1.2.3", NEVER),
    ("::", NEVER),
    ("127.0.0.1", PRIVATE),
    ("127.255.255.254", PRIVATE),
    ("::1", PRIVATE),
    # link-local, and the metadata services of clouds
    ("169.254.0.1", NEVER),
    ("169.254.169.254", NEVER),  # most clouds
    ("169.254.170.2", NEVER),  # Amazon's containers
    ("192.0.0.192", NEVER),  # Oracle
    ("100.100.100.200", NEVER),  # Alibaba
    ("fe80::1", NEVER),
    ("febf::1", NEVER),
    ("fe80::1%eth0", NEVER),
    ("fd00:ec2::254", NEVER),  # Amazon
    ("fd20:ce::254", NEVER),  # Google
    # multicast, reserved, broadcast
    ("224.0.0.1", NEVER),
    ("239.255.255.255", NEVER),
    ("240.0.0.1", NEVER),
    ("255.255.255.255", NEVER),
    ("ff02::1", NEVER),
    # private networks
    ("10.0.0.1", PRIVATE),
    ("172.16.0.1", PRIVATE),
    ("172.31.255.255", PRIVATE),
    ("192.168.1.1", PRIVATE),
    ("100.64.0.1", PRIVATE),
    ("192.0.0.8", PRIVATE),
    ("198.18.0.1", PRIVATE),
    ("fc00::1", PRIVATE),
    ("fd12:3456:789a::1", PRIVATE),
    ("fec0::1", PRIVATE),
    # an IPv4 address inside an IPv6 one: mapped, compatible, translated, NAT64, 6to4
    ("::ffff:169.254.169.254", NEVER),
    ("::ffff:a9fe:a9fe", NEVER),
    ("::ffff:0.0.0.0", NEVER),
    ("::ffff:127.0.0.1", PRIVATE),
    ("::ffff:10.0.0.1", PRIVATE),
    ("::ffff:8.8.8.8", ALWAYS),
    ("::169.254.169.254", NEVER),
    ("::127.0.0.1", PRIVATE),
    ("::ffff:0:169.254.169.254", NEVER),
    ("::ffff:0:10.0.0.1", PRIVATE),
    ("64:ff9b::a9fe:a9fe", NEVER),
    ("64:ff9b::10.0.0.1", PRIVATE),
    ("64:ff9b::8.8.8.8", ALWAYS),
    ("64:ff9b:1::169.254.169.254", NEVER),
    ("64:ff9b:1::192.168.0.1", PRIVATE),
    ("2002:a9fe:a9fe::1", NEVER),
    ("2002:7f00:1::", PRIVATE),
    ("2002:808:808::1", ALWAYS),
    # the neighbours of what is refused, and plain public addresses
    ("1.0.0.0", ALWAYS),
    ("8.8.8.8", ALWAYS),
    ("11.0.0.1", ALWAYS),
    ("100.63.255.255", ALWAYS),
    ("100.128.0.1", ALWAYS),
    ("128.0.0.1", ALWAYS),
    ("169.253.255.255", ALWAYS),
    ("172.15.255.255", ALWAYS),
    ("172.32.0.1", ALWAYS),
    ("192.167.255.255", ALWAYS),
    ("192.0.1.1", ALWAYS),
    ("198.20.0.1", ALWAYS),
    ("223.255.255.255", ALWAYS),
    ("2001:4860:4860::8888", ALWAYS),
    ("2a00:1450:4001:82f::200e", ALWAYS),
]


@pytest.mark.parametrize(("text", "when"), TABLE)
def test_an_address_is_connected_to(text: str, when: str) -> None:
    address = ip_address(text)
    assert is_forbidden(address, block_private=False) is (when == NEVER)
    assert is_forbidden(address, block_private=True) is (when != ALWAYS)


@pytest.mark.parametrize("text", ["169.254.169.254", "192.0.0.192", "100.100.100.200", "0.0.0.0", "224.0.0.1"])
@pytest.mark.parametrize("prefix", ["::ffff:", "::ffff:0:", "64:ff9b::", "64:ff9b:1::"])
def test_no_ipv6_notation_hides_a_forbidden_ipv4_address(prefix: str, text: str) -> None:
    assert is_forbidden(IPv6Address(prefix + text), block_private=False)


@pytest.mark.parametrize(
    "text",
    ["127.1", "0x7f000001", "0177.0.0.1", "2130706433", "127.0.0.01", "\uff1127.0.0.1", "127.0.0.1.", "1.2.3.4.5", ""],
)
def test_an_address_has_one_notation_and_no_other(text: str) -> None:
    assert parse_address(text) is None


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1).map(IPv4Address), st.booleans())
def test_what_is_refused_as_ipv4_is_refused_inside_ipv6_and_nothing_else(address: IPv4Address, block: bool) -> None:
    mapped = IPv6Address(0xFFFF_0000_0000 + int(address))
    assert embedded(mapped) == address
    assert is_forbidden(mapped, block_private=block) is is_forbidden(address, block_private=block)
