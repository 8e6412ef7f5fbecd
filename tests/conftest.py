"""For all tests: no connection may leave this machine."""

import ipaddress
import socket

import pytest


@pytest.fixture(autouse=True, scope="session")
def _no_network():
    """Connecting to anything but a loopback address or a local socket is an error."""
    connect = socket.socket.connect

    def connect_locally(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host = address[0]
            if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
                raise AssertionError(f"a test tried to reach {address}")
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_locally)
        yield
