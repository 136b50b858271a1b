"""An elastic run whose launcher has had no rank for some time is noticed, ended and started again."""

import re
import subprocess
import sys
from pathlib import Path

from app.launch import rank_parent

ROOT = Path(__file__).parents[2]

# The launcher gets the number of processes. At the first start, which is for 3, two ranks run one after the other. Then
# the launcher waits for ever, as Horovod may do after all processes have died. At the second start it has no rank.
LAUNCHER = f"""
rank() {{ {sys.executable} -c "import time; time.sleep($1)" {rank_parent.__file__}; }}
if [ $1 = 3 ]; then rank 1; echo the first has ended; sleep 0.5; rank 4; echo the second has ended; fi
exec sleep 60
"""
RUN = """if True:
    import os, sys
    from functools import partial
    from app.launch import launch
    from app.launch.command_line import Elastic, Launch
    launch.NoProcessDetector = partial(launch.NoProcessDetector, patience=3.0)
    launch._STARTS = 2
    run = Launch("horovodrun", 3, [], False, "gloo", [], elastic=Elastic(1, 3, ""))
    sys.exit(launch._run(["bash", "-c", sys.argv[1], "-np", "3"], dict(os.environ), run))
"""


def test_a_run_without_a_process_is_ended_and_started_again() -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN, LAUNCHER], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    first, second, alone, again, end = done.stderr.splitlines()
    assert (first, second) == ("the first has ended", "the second has ended")
    seconds = re.fullmatch(r"warning: the run had no process for (\d+) s", alone)
    assert seconds and int(seconds[1]) >= 3
    assert again == "warning: no process is left: the run starts again from its checkpoint (1 of 1 times)"
    assert re.fullmatch(r"error: the run had no process for \d+ s; the same command starts it again", end)
