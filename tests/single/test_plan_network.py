"""The predicted time of an allreduce is compared with the paper's numbers and with calculations by hand."""

import math

import pytest

from app.base.errors import UserError
from app.base.units import bandwidth, megabytes, seconds
from app.forecast.interconnect import Cluster, Link, exposed_seconds, halving_doubling, ring, slowest_of

STEPS = Link(math.inf, 1.0)  # a message takes a second, so a time is the number of messages that follow one another
BYTES = Link(1.0, 0.0)  # a byte takes a second, so a time is the number of bytes that are sent
ETHERNET = Link(50e9 / 8, 15e-6)


@pytest.mark.parametrize(
    ("members", "of_ring", "of_halving"), [(1, 0, 0), (2, 2, 2), (8, 14, 6), (32, 62, 10), (44, 86, 12)]
)
def test_messages_in_a_row(members: int, of_ring: int, of_halving: int) -> None:
    assert ring(100.0, members, STEPS) == of_ring
    assert halving_doubling(100.0, members, STEPS) == of_halving


@pytest.mark.parametrize(("members", "sent"), [(1, 0.0), (2, 100.0), (4, 150.0), (32, 193.75)])
def test_bytes(members: int, sent: float) -> None:
    assert ring(100.0, members, BYTES) == pytest.approx(sent)
    assert halving_doubling(100.0, members, BYTES) == pytest.approx(sent)


def test_halving_doubling_is_three_times_the_ring() -> None:
    """Section 4.2 of the paper states this factor. The tensor has the mean size of ResNet-50's 161 tensors."""
    layer = 4 * 25.6e6 / 161
    assert ring(layer, 32, ETHERNET) / halving_doubling(layer, 32, ETHERNET) == pytest.approx(3, rel=0.1)


def test_hierarchical() -> None:
    local = Link(20e9, 5e-6)
    cluster = Cluster(8, ETHERNET, local, "hierarchical")
    inside = 14 * 5e-6 + 14 / 8 * 100e6 / 20e9
    between = 10 * 15e-6 + 62 / 32 * 100e6 / 6.25e9
    assert cluster.allreduce_seconds(100e6, 256) == pytest.approx(inside + between)
    assert cluster.allreduce_seconds(100e6, 8) == pytest.approx(inside)
    assert cluster.hosts(9) == 2


@pytest.mark.parametrize(("allreduce", "messages"), [("ring", 510), ("halving-doubling", 16)])
def test_flat(allreduce: str, messages: int) -> None:
    cluster = Cluster(8, ETHERNET, Link(20e9, 5e-6), allreduce)
    assert cluster.allreduce_seconds(100e6, 256) == pytest.approx(messages * 15e-6 + 62 / 32 * 100e6 / 6.25e9)
    local = {"ring": 14, "halving-doubling": 6}[allreduce]
    assert cluster.allreduce_seconds(100e6, 8) == pytest.approx(local * 5e-6 + 14 / 8 * 100e6 / 20e9)


def test_overlap() -> None:
    """The backward pass takes 10 ms and yields 10 bytes.

    If a message takes 2 ms, messages of 1, 2, 2, 2, 2 and 1 bytes end after 3, 5, 7, 9, 11 and 13 ms. So 3 ms are
    exposed.
    """
    assert exposed_seconds(10, 0.010, lambda size: 0.002) == pytest.approx(0.003)
    # If a byte takes 2 ms, messages of 1, 2, 4 and 3 bytes follow one another without a pause and end after 21 ms.
    assert exposed_seconds(10, 0.010, lambda size: 0.002 * size) == pytest.approx(0.011)
    assert exposed_seconds(10, 0.010, lambda size: 0.0) == pytest.approx(0.0)


def test_messages_are_at_most_64_mib() -> None:
    sent: list[float] = []
    exposed_seconds(100 * 2**20, 0.0005, lambda size: sent.append(size) or 0.01)
    assert sent == [64 * 2**20, 36 * 2**20]


@pytest.mark.parametrize(("workers", "expected"), [(1, 0.0), (2, 0.564), (8, 1.424), (100, 2.508), (352, 2.93)])
def test_slowest(workers: int, expected: float) -> None:
    """The expected largest of several normal numbers agrees with tables of order statistics."""
    assert slowest_of(workers) == pytest.approx(expected, abs=0.03)


def test_units() -> None:
    assert bandwidth("50Gbit") == 6.25e9
    assert bandwidth("800 Mbit/s") == 1e8
    assert bandwidth("6GB") == 6e9
    assert seconds("15us") == pytest.approx(15e-6)
    assert seconds("0.1ms") == pytest.approx(1e-4)
    assert megabytes(102.4e6) == "102 MB"
    assert megabytes(2.94e9) == "2.94 GB"


@pytest.mark.parametrize("text", ["50", "fast", "0Gbit", "1.2.3Gbit", "-1Gbit", "50us"])
def test_no_bandwidth(text: str) -> None:
    with pytest.raises(UserError, match="is not a bandwidth: write it like 50Gbit"):
        bandwidth(text)
