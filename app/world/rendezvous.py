"""Horovod's HTTP store and other services, restricted to the processes of the job.

The processes of a job find each other at an HTTP store. Horovod's own store listens on all network interfaces, answers
everyone, stores values of any size, and unpickles what elastic processes send. The store of this module listens on one
address and only answers requests whose path begins with a random token.

The processes get the token as a part of the address in the environment variable HOROVOD_GLOO_RENDEZVOUS_ADDR. Horovod
requests `http://ADDR:PORT/SCOPE/KEY`, where ADDR is the value of this variable. If the value is
`10.0.0.1:4242/TOKEN`, the request goes to 10.0.0.1:4242, and its path is `/TOKEN:PORT/SCOPE/KEY`.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hmac
import http.client
import io
import logging
import os
import pickle
import secrets
import socket
import socketserver
import struct
import threading
from typing import Any

import psutil
from horovod.runner.common.util import network
from horovod.runner.common.util.hosts import INVALID_SLOT_INFO
from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer, RendezvousServer

MOST_WAITING = 1024  # connections that wait to be accepted; all ranks of a run may connect at the same time
LARGEST = 2**20  # the largest size in bytes of a stored value or a message (gloo stores values of a few hundred bytes)
REQUEST_TIME = 30.0  # a connection with an incomplete request is ended after this number of seconds without a byte
MOST_ARRIVING = 64  # the largest number of open connections whose request is incomplete
PLACE = "place"  # the scope (group of keys) in which a process of an elastic run asks for its next rank
RANK_AND_SIZE, WORKER_ADDRESSES = "rank_and_size", "worker_addresses"  # scopes (groups of keys) of Horovod's store
_PATIENCE = 600.0  # the longest time in seconds that a process waits for its rank


RendezvousHTTPServer.request_queue_size = MOST_WAITING


class ClosedServer(RendezvousServer):
    """Horovod's HTTP store, but it listens on one address only and requires a token."""

    def __init__(self, address: str, verbose: int = 0) -> None:
        super().__init__(verbose)
        self.address = address
        self.token = secrets.token_hex(16)

    def start(self, handler_cls: type[RendezvousHandler] = RendezvousHandler) -> int:
        """Start answering requests. Return the port, which the system chooses."""
        self._httpd = RendezvousHTTPServer((self.address, 0), _closed(handler_cls, self.token), self._verbose)
        self._httpd.daemon_threads = True
        self._listen_thread = threading.Thread(target=self._httpd.serve_forever, daemon=True)
        self._listen_thread.start()
        return int(self._httpd.server_address[1])

    def environment_address(self) -> str:
        """Return the value of HOROVOD_GLOO_RENDEZVOUS_ADDR for the processes of the job."""
        return f"{self.address}:{self._httpd.server_address[1]}/{self.token}"


class _Arriving:
    """Limit the connections of a server whose request is incomplete. This is a mixin for the server's handler class.

    Each connection needs a thread and an open file, and strangers could use up both. If there are too many connections,
    the oldest is ended. It belongs to a stranger, because processes of the job send their request immediately.
    """

    server: Any
    connection: socket.socket

    def setup(self) -> None:
        self.timeout = REQUEST_TIME
        super().setup()  # type: ignore[misc]
        arriving: dict[socket.socket, None] = vars(self.server).setdefault("arriving", {})
        arriving[self.connection] = None
        for oldest in list(arriving)[:-MOST_ARRIVING]:
            arriving.pop(oldest, None)
            with contextlib.suppress(OSError):
                oldest.shutdown(socket.SHUT_RDWR)

    def arrived(self) -> None:
        self.server.arriving.pop(self.connection, None)

    def finish(self) -> None:
        self.arrived()
        super().finish()  # type: ignore[misc]


def _closed(handler: type[RendezvousHandler], token: str) -> type[RendezvousHandler]:
    class ClosedHandler(_Arriving, handler):
        path: str

        def parse_request(self) -> bool:
            """Read the first line and the headers of a request. Return False if the request was refused."""
            if not super().parse_request():
                return False
            first, _, rest = self.path.removeprefix("/").partition("/")
            given = first.partition(":")[0]
            length = self.headers.get("Content-Length", "0")
            if not hmac.compare_digest(given.encode(), token.encode()) or self.command not in ("GET", "PUT", "DELETE"):
                return self._refuse(404)
            if rest.count("/") != 1 or not length.isdecimal():
                return self._refuse(400)
            if int(length) > LARGEST:
                return self._refuse(413)
            self.path = f"/{rest}"
            self.arrived()
            return True

        def _refuse(self, status: int) -> bool:
            self.close_connection = True
            self.send_status_code(status)
            return False

    return ClosedHandler


def elastic_handler(driver: Any) -> type[RendezvousHandler]:
    """Return the class that handles requests of the processes of an elastic run.

    Args:
        driver: The app.launch.elastic_driver.MeetingDriver of the run.
    """

    class MeetingHandler(RendezvousHandler):
        def _get_value(self, scope: str, key: str) -> bytes | None:
            if scope in (PLACE, RANK_AND_SIZE):
                host, _, slot = key.rpartition(":")
                if scope == PLACE and not driver.wait_for_place(host, int(slot)):
                    return INVALID_SLOT_INFO.to_response_string().encode()
                found: bytes = driver.get_slot_info(host, int(slot)).to_response_string().encode()
                return found
            if driver.meeting_is_over():
                return b""  # gloo waits for addresses; an empty one makes hvd.init() fail at once
            value: bytes | None = super()._get_value(scope, key)
            return value

        def _put_value(self, scope: str, key: str, value: bytes) -> None:
            if scope != WORKER_ADDRESSES:
                super()._put_value(scope, key, value)
                return
            host, _, slot = key.rpartition(":")
            try:
                addresses, secret = plain(base64.b64decode(value, validate=True))
                driver.register_worker_server(host, int(slot), addresses, secret)
            except (pickle.UnpicklingError, ValueError, TypeError, EOFError, binascii.Error) as error:
                logging.warning("a message to %s was refused: %s", key, error)

    return MeetingHandler


def plain(data: bytes) -> Any:
    """Unpickle numbers, text, bytes and containers of these. Raises pickle.UnpicklingError for anything else."""
    return _NoClasses(io.BytesIO(data)).load()


class _NoClasses(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it holds an object of {module}.{name}")


def wait_for_place() -> int:
    """Ask the launcher of an elastic run for this process's next rank, and wait for the answer.

    The launcher answers when all processes of the run have asked. This function then sets Horovod's variables in
    the environment.

    Returns:
        This process's rank, or -1 if the run continues without this process.
    """
    key = f"{os.environ['HOROVOD_HOSTNAME']}:{os.environ['HOROVOD_LOCAL_RANK']}"
    _, place = _ask(PLACE, key, _PATIENCE)
    numbers = place.decode().split(",")
    if int(numbers[0]) >= 0:
        names = ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE")
        os.environ |= {f"HOROVOD_{name}": number for name, number in zip(names, numbers, strict=True)}
    return int(numbers[0])


def meeting_is_over() -> bool:
    """Ask the launcher of an elastic run whether this process must stop connecting, because another one has died."""
    try:
        return _ask("meeting", "over", timeout=5)[0] == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):  # the launcher has ended, and this process will be ended anyway
        return False


def _ask(scope: str, key: str, timeout: float) -> tuple[int, bytes]:
    """Read a value from the launcher's HTTP store. Return the HTTP status and the value."""
    server, _, token = os.environ["HOROVOD_GLOO_RENDEZVOUS_ADDR"].partition("/")
    connection = http.client.HTTPConnection(server, timeout=timeout)
    try:
        connection.request("GET", f"/{token}/{scope}/{key}")
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


_read = network.Wire.read


def close_services(interface: str | None = None) -> None:
    """Restrict the servers that Horovod starts in this process in addition to its store.

    These servers only answer messages that are signed with the job's secret key. This function makes them also refuse
    messages of more than LARGEST bytes, and listen on one network interface.

    Args:
        interface: The network interface on which they listen, or None for all interfaces.
    """
    network.Wire.read = _read_limited
    address = address_of(interface) if interface else ""
    if address:
        network.find_port = lambda serve: _bound(serve((address, 0)))


def _bound(server: socketserver.ThreadingTCPServer) -> tuple[socketserver.ThreadingTCPServer, int]:
    handler: Any = server.RequestHandlerClass
    server.RequestHandlerClass = type("Handler", (_Arriving, handler), {})
    server.daemon_threads = True  # otherwise the process would wait for the connections of strangers at its end
    return server, int(server.server_address[1])


def _read_limited(self: Any, stream: Any) -> Any:
    try:
        head = stream.read(36)  # 32 bytes of digest and 4 bytes with the length
    except OSError:  # no byte has arrived for REQUEST_TIME seconds
        raise EOFError from None
    if len(head) < 36:
        raise EOFError
    if not 0 <= struct.unpack("i", head[32:])[0] <= LARGEST:
        raise EOFError(f"a message of more than {LARGEST} bytes was refused")
    return _read(self, _Joined(head, stream))


class _Joined:
    """A stream that returns some bytes, which were read from another stream, and then the rest of that stream."""

    def __init__(self, head: bytes, rest: Any) -> None:
        self._head, self._rest = io.BytesIO(head), rest

    def read(self, size: int) -> bytes:
        found: bytes = self._head.read(size) or self._rest.read(size)
        return found


def address_of(interface: str) -> str:
    """Return the IPv4 address of a network interface of this host, or "" if it has none."""
    found = [each.address for each in psutil.net_if_addrs().get(interface, []) if each.family.name == "AF_INET"]
    return found[0] if found else ""
