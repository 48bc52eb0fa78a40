"""Our UPDATEs, read by ExaBGP's decoder: nothing lost, nothing added, no message too long."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from porter_ha.bgp import packer
from porter_ha.core.session import Negotiated
from porter_ha.model.plan import Tags
from tests.contract.decode import Router
from tests.unit.builders import peer

v4 = st.ip_addresses(v=4).map(str).filter(lambda a: not a.startswith(("0.", "127.", "22", "23", "24", "25")))
v6 = st.integers(1, 2**64).map(lambda n: f"fd00:{n >> 48 & 0xFFFF:x}:{n >> 32 & 0xFFFF:x}::{n & 0xFFFF:x}")


def agreed(**more):
    base = {"families": (4, 6), "add_path": (4, 6), "asn4": True, "message_size": 4096}
    found = {**base, **more}
    return Negotiated(30, found["families"], found["add_path"], found["asn4"], found["message_size"], True, "10.9.0.1")


def canonical(routes):
    import ipaddress

    return {(str(ipaddress.ip_address(a)), i) for a, i in routes}


@given(st.sets(st.tuples(v4, st.integers(1, 2**32 - 1)), max_size=900), st.integers(0, 2**32 - 1))
def test_v4(routes, med):
    check(4, "10.1.0.1", routes, med)


@given(st.sets(st.tuples(v6, st.integers(1, 2**32 - 1)), max_size=400), st.integers(0, 2**32 - 1))
def test_v6(routes, med):
    check(6, "fd01::1", routes, med)


def check(family, hop, routes, med):
    session = agreed()
    router = Router(session)
    attributes = packer.path_attributes(peer(), session, med)
    nlri = [route for a, i in sorted(routes) for route in packer.with_path_id([packer.prefix(a)], i)]
    for data in packer.announcements(attributes, hop, family, nlri, session.message_size):
        router.hear(data)
    heard = {(a, i) for a, paths in router.table.items() for i in paths}
    assert heard == canonical(routes)
    assert {value for paths in router.table.values() for value in paths.values()} <= {(hop, med)}
    assert router.longest <= session.message_size
    for data in packer.withdrawals(family, nlri, session.message_size):
        router.hear(data)
    assert router.table == {}


@pytest.mark.parametrize(("family", "hop"), [(4, "10.1.0.1"), (6, "fd01::1")])
def test_messages_are_full(family, hop):
    session = agreed()
    router = Router(session)
    attributes = packer.path_attributes(peer(), session, 7)
    text = "10.{}.{}.{}" if family == 4 else "fd00::{:x}:{:x}:{:x}"
    prefixes = [packer.prefix(text.format(i >> 16, i >> 8 & 255, i & 255)) for i in range(50_000)]
    nlri = packer.with_path_id(prefixes, 1)
    for data in packer.announcements(attributes, hop, family, nlri, session.message_size):
        router.hear(data)
    assert len(router.table) == 50_000
    ideal = 50_000 * len(nlri[0]) / session.message_size
    assert router.messages <= ideal * 1.05 + 1


def test_end_of_rib():
    router = Router(agreed())
    router.hear(packer.end_of_rib(4) + packer.end_of_rib(6))
    assert router.ends == [4, 6]


def test_ibgp_has_a_local_preference_and_no_as_path():
    session = agreed()
    data = b"".join(
        packer.announcements(
            packer.path_attributes(peer(peer_as=65001), session, 7),
            "10.1.0.1",
            4,
            packer.with_path_id([packer.prefix("10.0.0.1")], 1),
            4096,
        )
    )
    assert bytes.fromhex("400200") in data
    assert bytes.fromhex("40050400000064") in data


def test_a_router_without_four_byte_as_numbers_is_told_as_trans():
    session = agreed(asn4=False)
    attributes = packer.path_attributes(peer(local_as=4200000001), session, 7)
    assert bytes.fromhex("40020402015ba0") in attributes
    assert bytes.fromhex("c011060201fa56ea01") in attributes


@pytest.mark.parametrize(("family", "hop", "route"), [(4, "10.1.0.1", "10.0.3.0/26"), (6, "fd01::1", "fd00:3::/44")])
def test_prefixes_and_tags_are_read_as_meant(family, hop, route):
    session = agreed()
    router = Router(session)
    tags = Tags((65001 << 16 | 100, 0xFFFFFF01), ((65001, 1, 4294967295),), 333)
    attributes = packer.path_attributes(peer(peer_as=65001), session, 7, tags)
    nlri = packer.with_path_id([packer.prefix(route)], 9)
    for data in packer.announcements(attributes, hop, family, nlri, session.message_size):
        router.hear(data)
    said = router.attributes[route]
    for words in ("65001:100", "no-export", "65001:1:4294967295", "local-preference 333", "med 7"):
        assert words in said, said
    for data in packer.withdrawals(family, nlri, session.message_size):
        router.hear(data)
    assert router.table == {}
