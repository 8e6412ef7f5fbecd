"""The fixture that keeps the tests off the network does keep them off."""

import socket

import pytest


def test_sockets_that_leave_the_machine_are_blocked():
    with socket.socket() as outgoing, pytest.raises(AssertionError, match=r"192\.0\.2\.1"):
        outgoing.connect(("192.0.2.1", 80))


def test_loopback_works():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        client.connect(server.getsockname())
