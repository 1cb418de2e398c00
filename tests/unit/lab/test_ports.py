"""Free ports, asked of the real kernel."""

import socket

import pytest

from voxtractl.lab.ports import Ports, choose_ports, is_free


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_port_in_use_is_not_free(kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as holder:
        holder.bind(("127.0.0.1", 0))
        if kind is socket.SOCK_STREAM:
            holder.listen()
        port = holder.getsockname()[1]
        assert not is_free(port, kind)
    assert is_free(port, kind)


def test_a_port_bound_on_all_addresses_is_not_free_on_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as holder:
        holder.bind(("0.0.0.0", 0))
        holder.listen()
        assert not is_free(holder.getsockname()[1], socket.SOCK_STREAM)


def test_chosen_ports_lie_below_those_linux_gives_to_outgoing_connections() -> None:
    for _ in range(50):
        ports = choose_ports()
        assert 20_000 <= ports.http < 32_000
        assert 20_000 <= ports.sip < 32_000
        assert 10_000 <= ports.rtp_first < ports.rtp_last < 20_000
        assert ports.rtp_first % 2 == 0


def test_ports_are_free_only_when_both_are() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("127.0.0.1", 0))
        ports = Ports(http=choose_ports().http, sip=holder.getsockname()[1], rtp_first=0, rtp_last=0)
        assert not ports.free_within(0)
    assert ports.free_within(0)
