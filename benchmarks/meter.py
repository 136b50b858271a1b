"""Measure the time of steps inside a process that groups.py has started. groups.py is called the driver here."""

from __future__ import annotations

import os
import socket
import sys
import time


class Meter:
    """Measures the time of as many steps as the driver asks for, and sends the time to the driver.

    Call `tick()` at the start of each step. It blocks until the driver asks for steps. It ends the process when the
    driver has closed the connection.
    """

    def __init__(self) -> None:
        self.driver = socket.create_connection(("127.0.0.1", int(os.environ["METER_PORT"])))
        self.words = self.driver.makefile("r")
        self.driver.sendall(f"{os.getpid()}\n".encode())
        self.left, self.since = 0, 0.0

    def tick(self) -> None:
        if self.left == 0:
            if self.since:
                torch = sys.modules.get("torch")  # a program that uses a GPU has imported it
                if torch and torch.cuda.is_initialized():
                    torch.cuda.synchronize()  # GPU work counts only when it has finished
                self.driver.sendall(f"{time.perf_counter() - self.since}\n".encode())
            steps = self.words.readline()
            if not steps:
                os._exit(0)
            self.left, self.since = int(steps), time.perf_counter()
        self.left -= 1
