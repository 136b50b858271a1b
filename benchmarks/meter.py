"""The clock inside a process that is measured: told how many steps by the driver (groups.py), it tells their time."""

from __future__ import annotations

import os
import socket
import time

import torch


class Meter:
    """`tick()` at the start of each step. It blocks between rounds, and ends the process when the driver is gone."""

    def __init__(self) -> None:
        self.driver = socket.create_connection(("127.0.0.1", int(os.environ["METER_PORT"])))
        self.words = self.driver.makefile("r")
        self.driver.sendall(f"{os.getpid()}\n".encode())
        self.left, self.since, self.cpu = 0, 0.0, 0.0

    def tick(self) -> None:
        if self.left == 0:
            if self.since:
                if torch.cuda.is_initialized():
                    torch.cuda.synchronize()  # what was asked of the GPU counts when it is done
                taken = time.perf_counter() - self.since, time.process_time() - self.cpu
                self.driver.sendall("{} {}\n".format(*taken).encode())
            steps = self.words.readline()
            if not steps:
                os._exit(0)
            self.left, self.since, self.cpu = int(steps), time.perf_counter(), time.process_time()
        self.left -= 1
