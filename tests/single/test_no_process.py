"""An elastic run whose launcher has had no rank for some time is noticed and ended."""

import re
import signal
import subprocess
import sys
from pathlib import Path

from app.launch import rank_parent

ROOT = Path(__file__).parents[2]

# Two ranks run one after the other. Then the launcher waits for ever, as Horovod may do after all processes have died.
LAUNCHER = f"""
rank() {{ {sys.executable} -c "import time; time.sleep($1)" {rank_parent.__file__}; }}
rank 1; echo the first has ended; sleep 1; rank 6; echo the second has ended; exec sleep 60
"""
WATCH = """if True:
    import os, signal, sys
    from app.launch.job import Job, NoProcessDetector
    job = Job(["bash", "-c", sys.argv[1]], os.environ, signal.SIGTERM)
    alone = NoProcessDetector(job, patience=4.0)
    for chunk in job.chunks():
        os.write(1, chunk)
        if alone.for_long():
            os.write(1, f"no process for {alone.found} s\\n".encode())
            job.end_within(0)
    os.write(1, f"the launcher ended with {job.close()}\\n".encode())
"""


def test_a_run_without_a_process_is_ended() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WATCH, LAUNCHER], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    first, second, alone, end = done.stdout.splitlines()
    assert (first, second) == ("the first has ended", "the second has ended")
    seconds = re.fullmatch(r"no process for ([0-9.]+) s", alone)
    assert seconds and float(seconds[1]) > 4
    assert end == f"the launcher ended with {-signal.SIGKILL}"
    assert done.stderr == ""
