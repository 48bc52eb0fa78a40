"""Addresses and ranges: what is written is what is read, and nonsense is refused by name."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from porter_ha.model.net import parse_address, parse_range, parse_ranges, to_text

ips = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))


@given(ips)
def test_an_address_survives_the_round_trip(ip):
    assert to_text(*parse_address(str(ip))) == str(ip)


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), st.integers(0, 128))
def test_prefixes_agree_with_the_standard_library(ip, length):
    length = min(length, ip.max_prefixlen)
    network = ipaddress.ip_network(f"{ip}/{length}", strict=False)
    found = parse_range(f"{ip}/{length}")
    assert (found.first, found.last) == (int(network[0]), int(network[-1]))


@given(st.ip_addresses(v=4), st.ip_addresses(v=4))
def test_ranges(a, b):
    low, high = sorted((a, b))
    found = parse_range(f"{low}-{high}")
    assert found.size == int(high) - int(low) + 1
    assert parse_address(str(low)) in found
    if low != high:
        with pytest.raises(ValueError, match="ends before it begins"):
            parse_range(f"{high}-{low}")


@given(st.text(max_size=30))
def test_any_text_is_a_range_or_a_value_error_that_quotes_it(text):
    try:
        assert parse_range(text).size >= 1
    except ValueError as error:
        assert repr(text.strip())[1:-1][:5] in str(error) or "is not an IP address" in str(error)  # noqa: PT017


@given(st.lists(st.integers(0, 255), min_size=1, max_size=6, unique=True))
def test_several_ranges_are_read_in_their_order(lasts):
    text = " , ".join(f"10.0.{n}.0/24" for n in lasts)
    assert [to_text(r.family, r.first) for r in parse_ranges(text)] == [f"10.0.{n}.0" for n in lasts]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("10.0.0.0/24,fd00::/64", "mixes IPv4 and IPv6"),
        ("10.0.0.0/24,10.0.0.7", "twice"),
        ("10.0.0.0/24,", "is no pool"),
        ("", "is no pool"),
    ],
)
def test_ranges_that_contradict_each_other_are_refused(text, hint):
    with pytest.raises(ValueError, match=hint):
        parse_ranges(text)
