"""Which addresses are never connected to, and which only when private networks are allowed. Pure.

The lists are spelled out because ``ipaddress`` of Python 3.11 calls some of them global: NAT64 and 6to4 carry an IPv4
address inside, and 192.0.0.192 is the metadata service of Oracle's cloud.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

Address = IPv4Address | IPv6Address

_NEVER = [
    ip_network(text)
    for text in (
        "0.0.0.0/8",  # "this network", RFC 791; Linux connects 0.0.0.0 to itself
        "169.254.0.0/16",  # link-local, and the metadata service of most clouds, RFC 3927
        "192.0.0.192/32",  # Oracle's metadata service
        "100.100.100.200/32",  # Alibaba's metadata service
        "168.63.129.16/32",  # Azure's platform services
        "224.0.0.0/4",  # multicast, RFC 5771
        "240.0.0.0/4",  # reserved and broadcast, RFC 1112 and RFC 919
        "::/128",  # unspecified, RFC 4291
        "fe80::/10",  # link-local
        "ff00::/8",  # multicast
        "fd00:ec2::/32",  # Amazon's metadata service
        "fd20:ce::/32",  # Google's metadata service
    )
]

_PRIVATE = [
    ip_network(text)
    for text in (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "127.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT, RFC 6598
        "192.0.0.0/24",
        "198.18.0.0/15",  # benchmarking, RFC 2544
        "::1/128",
        "fc00::/7",
        "fec0::/10",
    )
]

_TRANSLATED = [
    ip_network(text)
    for text in (
        "64:ff9b::/96",  # NAT64, RFC 6052
        "64:ff9b:1::/48",  # NAT64 of a site's own, RFC 8215
        "::ffff:0:0:0/96",  # SIIT, RFC 2765
    )
]


@lru_cache(maxsize=4096)
def parse_address(text: str) -> Address | None:
    """The address that a literal spells in its one canonical notation; None for everything else."""
    try:
        return ip_address(text)
    except ValueError:
        return None


def embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 one leads to (mapped, compatible, NAT64, SIIT, 6to4), or the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if any(address in network for network in _TRANSLATED) or (int(address) >> 32 == 0 and int(address) > 1):
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def is_forbidden(address: Address, *, block_private: bool) -> bool:
    """Whether no check may connect to ``address``; asked at the moment a socket is opened, whatever DNS said."""
    for candidate in {address, embedded(address)}:
        if any(candidate in network for network in _NEVER):
            return True
        if block_private and any(candidate in network for network in _PRIVATE):
            return True
    return False
