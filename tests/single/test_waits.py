"""benchmarks/waits.py divides the time of a step into computing, negotiating and summing."""

from typing import Any

from benchmarks.waits import parts_of


def test_parts_of_a_step() -> None:
    """Two steps of 10 ms: 4 ms computing, 3.5 ms negotiating, 2.5 ms summing. Two tensors overlap."""
    events: list[dict[str, Any]] = [{"ph": "M", "name": "process_name", "pid": 1, "args": {"name": "a gradient"}}]
    for step in range(3):  # the first step only starts the measurement
        start = 10_000 * step
        events += [
            begin(start + 4_000, 1, "NEGOTIATE_ALLREDUCE"),
            begin(start + 5_000, 2, "NEGOTIATE_ALLREDUCE"),
            {"ph": "i", "name": "CYCLE_START", "ts": start + 5_500},
            end(start + 6_000, 1),
            end(start + 7_000, 2),
            begin(start + 7_500, 2, "ALLREDUCE"),
            begin(start + 7_500, 1, "ALLREDUCE"),
            begin(start + 8_000, 1, "GLOO_ALLREDUCE"),
            end(start + 9_000, 2),
            end(start + 9_500, 1),
            end(start + 10_000, 1),
        ]
    assert parts_of(events, 2) == {"computing": 4.0, "negotiating": 3.5, "summing": 2.5}


def begin(microseconds: int, tensor: int, name: str) -> dict[str, Any]:
    return {"ph": "B", "ts": microseconds, "pid": tensor, "name": name}


def end(microseconds: int, tensor: int) -> dict[str, Any]:
    return {"ph": "E", "ts": microseconds, "pid": tensor}
