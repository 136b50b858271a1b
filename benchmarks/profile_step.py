"""Write a Chrome trace of a short training run: python -m benchmarks.profile_step TRACE.json [options of train].

Open the file in chrome://tracing or ui.perfetto.dev. On a GPU it shows the kernels, the copies and the waits of each
stream; on a CPU it shows the operators.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from app.base.failure import end
from app.commands import train


def main(argv: list[str]) -> int:
    """Train with the given options under torch's profiler, and write the trace and a table of the slowest operators."""
    if not argv or argv[0].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as recorded:
        train.main(argv[1:])
    recorded.export_chrome_trace(argv[0])
    by = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    table = recorded.key_averages().table(sort_by=by, row_limit=25, max_name_column_width=60)
    Path(argv[0]).with_suffix(".txt").write_text(table + "\n")
    return 0


if __name__ == "__main__":
    end(main(sys.argv[1:]))
