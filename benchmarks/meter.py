"""Measure the time of steps inside a process that groups.py has started. groups.py is called the driver here."""

from __future__ import annotations

import os
import socket
import time

import torch


class Meter:
    """Measures the time of as many steps as the driver asks for, and sends the time to the driver.

    Call `tick()` at the start of each step. It blocks until the driver asks for steps. It ends the process when the
    driver has closed the connection.
    """

    def __init__(self) -> None:
        self.driver = socket.create_connection(("127.0.0.1", int(os.environ["METER_PORT"])))
        self.words = self.driver.makefile("r")
        self.driver.sendall(f"{os.getpid()}\n".encode())
        self.left, self.since, self.cpu = 0, 0.0, 0.0

    def tick(self) -> None:
        if self.left == 0:
            if self.since:
                if torch.cuda.is_initialized():
                    torch.cuda.synchronize()  # GPU work counts only when it has finished
                taken = time.perf_counter() - self.since, time.process_time() - self.cpu
                self.driver.sendall("{} {}\n".format(*taken).encode())
            steps = self.words.readline()
            if not steps:
                os._exit(0)
            self.left, self.since, self.cpu = int(steps), time.perf_counter(), time.process_time()
        self.left -= 1
