"""Addresses of the network: read as they come, and held against networks."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from functools import lru_cache

__all__ = ["IPNetwork", "address_of", "is_within", "neighbourhood"]

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


def address_of(address: str) -> IPAddress:
    """Read an address, without its zone; an IPv4 address in IPv6 clothes is the IPv4 address.

    Raises
    ------
    ValueError
        If it is none.
    """
    peer = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(peer, "ipv4_mapped", None)
    return mapped if mapped is not None else peer


def is_within(address: str, networks: Collection[IPNetwork]) -> bool:
    """Say whether an address belongs to one of the networks; what is no address belongs to none."""
    if not networks:
        return False
    try:
        found = address_of(address)
    except ValueError:
        return False
    return any(found in network for network in networks)


@lru_cache(maxsize=4096)
def neighbourhood(address: str) -> str:
    """Return whom an address is counted as: of IPv6 the network that one customer has, since addresses cost nothing."""
    try:
        found = address_of(address)
    except ValueError:
        return address
    return str(found) if found.version == 4 else str(ipaddress.ip_network((int(found) >> 64 << 64, 64)))
