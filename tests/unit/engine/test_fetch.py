"""What is a URL, which addresses are public, and how a URL is shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_rlm_jupyter.engine.fetch import is_public, is_url, shown

PUBLIC = ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::"]
NOT_PUBLIC = [
    *("127.0.0.1", "127.255.255.254", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
    *("100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192", "192.0.2.1", "192.88.99.1", "198.18.0.1"),
    *("203.0.113.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1"),
    *("2002:7f00:1::", "2002:a00:1::", "2001:0:7f00:1::", "2001:db8::1", "fc00::1", "fd00:ec2::254", "fe80::1"),
    *("fe80::1%eth0", "fec0::1", "ff02::1", "ff0e::1", "100::1"),
]


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_of_the_internet_are_public(address):
    assert is_public(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_every_other_address_is_not(address):
    assert not is_public(address)


@given(st.ip_addresses(v=4))
def test_an_address_carried_in_another_is_judged_as_itself(address):
    carriers = [f"::ffff:{address}", f"2002:{int(address) >> 16:x}:{int(address) & 0xFFFF:x}::"]
    number = int(address)
    carriers.append(f"64:ff9b::{number >> 16:x}:{number & 0xFFFF:x}")
    assert {is_public(carrier) for carrier in carriers} == {is_public(str(address))}


def test_a_url_is_told_from_a_path():
    assert all(map(is_url, ["http://a/b", " HTTPS://a", "file:///etc/passwd", "gopher://a"]))
    assert not any(map(is_url, ["a/b", "/a", "C:/b", "a:b", "", "://x", Path("http://a")]))


def test_a_shown_url_has_neither_password_nor_query():
    assert shown("https://me:secret@a.example:8443/b/c?sig=secret#part") == "https://a.example:8443/b/c"
    assert shown("https://a.example?sig=secret") == "https://a.example"
