"""The environment variables that a run gets, values that are refused, and ./run.sh started by another launcher."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from app import start
from app.base.errors import UserError
from app.launch.environment import cleaned, travels
from tests.support.programs import APP, RUN, environ, run_ranks

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "name",
    [
        "NCCL_IB_HCA", "HOROVOD_CYCLE_TIME", "CUDA_DEVICE_ORDER", "PYTORCH_CUDA_ALLOC_CONF", "CUDNN_LOGINFO_DBG",
        "XDG_DATA_HOME", "XDG_CACHE_HOME", "PMIX_MCA_gds", "ATEN_CPU_CAPABILITY", "ONEDNN_VERBOSE", "DNNL_MAX_CPU_ISA",
        "GLIBC_TUNABLES",
    ],
)  # fmt: skip
def test_what_tunes_a_run_travels(name: str) -> None:
    assert travels(name)


@pytest.mark.parametrize(
    "name",
    ["AWS_SECRET_ACCESS_KEY", "SLURM_JWT", "WANDB_API_KEY", "PATH", "HOME", "my var", "A(x86)", "CUDA_VISIBLE_DEVICES"],
)
def test_what_stays_here(name: str) -> None:
    assert not travels(name)


MALLOC = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}  # what app/world/allocator.py adds


def test_what_describes_a_rank_is_dropped_and_what_tunes_is_kept() -> None:
    of_a_rank = {
        "HOROVOD_RANK": "1", "HOROVOD_GLOO_RENDEZVOUS_ADDR": "10.0.0.1", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
        "OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:1", "OMPI_MCA_ess_base_vpid": "1",
        "OMPI_UNIVERSE_SIZE": "2", "PMIX_RANK": "1", "PMI_SIZE": "2", "APP_TERMINAL_COLUMNS": "99",
    }  # fmt: skip
    kept = {
        "HOROVOD_FUSION_THRESHOLD": "0", "OMPI_MCA_btl": "^openib", "PMIX_MCA_gds": "hash",
        "OMPI_ALLOW_RUN_AS_ROOT": "1", "A(x86)": "1", "OMP_NUM_THREADS": "4,2",
    }  # fmt: skip
    assert cleaned(of_a_rank | kept) == kept | MALLOC


@pytest.mark.parametrize("threads", ["0", "", "garbage", "-1", "4;reboot"])
def test_a_number_of_threads_that_is_none_is_no_choice(threads: str) -> None:
    assert cleaned({"OMP_NUM_THREADS": threads}) == MALLOC


def test_a_proxy_is_left_out_on_the_way_to_this_host() -> None:
    found = cleaned({"https_proxy": "http://proxy:3128", "no_proxy": ".example.org"})
    assert found["no_proxy"].startswith(".example.org,localhost,")
    assert "127.0.0.1" in found["no_proxy"].split(",")
    assert found["NO_PROXY"] == found["no_proxy"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HOROVOD_FUSION_THRESHOLD", "abc"),
        ("HOROVOD_GLOO_TIMEOUT_SECONDS", "1e3"),
        ("HOROVOD_GLOO_TIMEOUT_SECONDS", "0"),
        ("HOROVOD_GLOO_TIMEOUT_SECONDS", "4294967296"),
        ("HOROVOD_CYCLE_TIME", "-1"),
        ("HOROVOD_CACHE_CAPACITY", ""),
    ],
)
def test_a_wrong_value_is_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=rf"{name}='?{value}'? in the environment(: give between| is no)"):
        cleaned({name: value})
    monkeypatch.setenv(name, value)
    assert start.main(["-np", "2", "train"]) == 2
    assert capfd.readouterr().err.count("\n") == 1


LEFT_OVER = [{"HOROVOD_RANK": "1"}, {"PMI_RANK": ""}, {"HOROVOD_RANK": "abc"}, {"PMIX_RANK": "1", "SLURM_PROCID": "1"}]


@pytest.mark.parametrize("left", LEFT_OVER)
def test_variables_of_another_job_silence_no_message(
    left: dict[str, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    assert start.main(["train", "--epochs", "none"]) == 2
    assert capfd.readouterr().err.startswith("error: argument --epochs")


def test_a_command_that_is_not_distributed_is_no_rank_of_another_job(tmp_path: Path) -> None:
    left = environ(HOROVOD_RANK="1", PMIX_RANK="1", PMI_RANK="")
    done = subprocess.run([*RUN, "plan", "--data", tmp_path / "none"], env=left, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("no such data folder: ") and done.stderr.count("\n") == 1


def test_a_rank_that_is_no_number_is_none(tmp_path: Path) -> None:
    left = environ(PMI_RANK="", HOROVOD_RANK="abc", HOROVOD_LOCAL_SIZE="")
    done = subprocess.run([*APP, "audit", tmp_path / "none"], env=left, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "app failed" not in done.stderr


TRAIN = [sys.executable, "-m", "app.start", "--dry-run", "train"]
NESTED = [
    (["mpirun", "--allow-run-as-root", "--oversubscribe", "-np", "2"], "mpirun has started this command 2 times"),
    (
        [str(Path(sys.executable).parent / "horovodrun"), "-np", "2", "--gloo"],
        "horovodrun has started this command 2 times",
    ),
    (
        [str(Path(sys.executable).parent / "torchrun"), "--no-python", "--nproc-per-node", "2", "--standalone"],
        "torchrun has started this command 2 times",
    ),
]


@pytest.mark.parametrize(("outer", "said"), NESTED)
def test_a_launcher_around_the_launcher(outer: list[str], said: str) -> None:
    done = subprocess.run([*outer, *TRAIN], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode != 0
    assert (done.stdout + done.stderr).count(said) == 1
    option = "or keep it and give ./run.sh the option --launcher none"
    assert (option in done.stderr + done.stdout) == ("torchrun" not in said)


@pytest.mark.parametrize(
    ("program", "size", "rank", "kept"),
    [
        ("deepspeed", "WORLD_SIZE", "RANK", "leave out deepspeed, because ./run.sh starts"),
        ("accelerate", "WORLD_SIZE", "RANK", "leave out accelerate, because ./run.sh starts"),
        ("flux-shell", "FLUX_JOB_SIZE", "FLUX_TASK_RANK", "start them with flux -o pmi=pmix"),
    ],
)
def test_launchers_that_are_not_installed(program: str, size: str, rank: str, kept: str, tmp_path: Path) -> None:
    """A shell with the name of the launcher takes its place."""
    shell = [shutil.copy("/bin/bash", tmp_path / program), "-c", '"$@"; exit $?', "sh"]
    alone = [*TRAIN[:3], "--launcher", "none", *TRAIN[3:]]
    for command, said in (TRAIN, " has started this command 3 times"), (alone, kept):
        for number, spoken in ("0", 1), ("1", 0):
            environ = os.environ | {size: "3", rank: number}
            done = subprocess.run(
                [*shell, *command], cwd=ROOT, env=environ, capture_output=True, text=True, check=False
            )
            assert (done.returncode, done.stderr.count("\n"), done.stderr.count(said)) == (2, spoken, spoken)
    unlaunched = os.environ | {size: "3", rank: "1"}  # left over from another job
    assert subprocess.run(TRAIN, cwd=ROOT, env=unlaunched, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="hiding the processes of others needs root")
def test_srun_where_proc_hides_the_processes_of_others() -> None:
    """slurmstepd belongs to root. With the mount option hidepid, other users do not see it."""
    program = "from app.launch.environment import *; print(outer_launcher({'SLURM_STEP_NUM_TASKS': '8'}))"
    as_nobody = f'setpriv --reuid 65534 --regid 65534 --clear-groups /usr/bin/python3 -c "{program}"; exit $?'
    for options, found in ("hidepid=0", "None\n"), ("hidepid=2", "('srun', 8)\n"):
        command = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c"]
        done = subprocess.run(
            [*command, f"mount -o remount,{options} /proc; {as_nobody}"],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.stdout == found, done.stderr


@pytest.mark.parametrize(("tasks", "code"), [("8", 2), ("1", 0)])
def test_srun_around_the_launcher(tasks: str, code: int, tmp_path: Path) -> None:
    """run.sh recognises processes of srun by their parent slurmstepd. Here a shell of this name takes its place."""
    daemon = Path(shutil.copy("/bin/bash", tmp_path / "slurmstepd"))
    step = os.environ | {"SLURM_STEP_NUM_TASKS": tasks, "SLURM_PROCID": "0", "HOROVOD_RANK": "1"}
    command = [str(daemon), "-c", '"$@"; exit $?', "sh", *TRAIN]
    done = subprocess.run(command, cwd=ROOT, env=step, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert ("srun has started this command 8 times" in done.stderr) == (code == 2)
    silent = subprocess.run(command, cwd=ROOT, env=step | {"SLURM_PROCID": "1"}, capture_output=True, check=False)
    assert (silent.returncode, silent.stderr) == (code, b"")
    # With --launcher none, the processes of srun are the ranks, and PMIx must connect them.
    ranks = [*command[:4], *TRAIN[:3], "--launcher", "none", *TRAIN[3:]]
    done = subprocess.run(ranks, cwd=ROOT, env=step, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert ("start them with srun --mpi=pmix" in done.stderr) == (code == 2)
    ranked = step | {"PMIX_RANK": "0"}
    assert subprocess.run(ranks, cwd=ROOT, env=ranked, capture_output=True, check=False).returncode == 0


def test_one_process_without_a_launcher(tmp_path: Path) -> None:
    """--launcher none removes the environment variables of a launcher, unless that launcher started this process."""
    program = tmp_path / "program.py"
    program.write_text(
        "import os; print(sorted(n for n in os.environ if n in ('HOROVOD_RANK', 'PMIX_RANK', 'OMP_NUM_THREADS')))"
    )
    start = [*run_ranks(program), "--launcher", "none", "train"]
    left = environ(HOROVOD_RANK="1", OMP_NUM_THREADS="0")
    outer = ["mpirun", "--allow-run-as-root", "-np", "1"]
    shown = []
    for command in (start, [*outer, *start]):
        done = subprocess.run(command, env=left, capture_output=True, text=True, check=True)
        shown.append(done.stdout)
    assert shown == ["[]\n", "['HOROVOD_RANK', 'OMP_NUM_THREADS', 'PMIX_RANK']\n"]


def test_horovodrun_with_mpi_keeps_what_the_user_has_chosen() -> None:
    program = """if True:
        import os
        from horovod.runner.common.util.settings import Settings
        from app.launch import horovodrun_ranks
        horovodrun_ranks.install()
        os.execve = lambda path, words, environ: print(words[-1])  # in place of starting mpirun
        settings = Settings(num_proc=2, hosts="a:1,b:1", extra_mpi_args="")
        for chosen in {}, {"NCCL_SOCKET_IFNAME": "^docker0", "OMPI_MCA_pml": "ucx"}:
            horovodrun_ranks.launch.mpi_run(settings, ["eth7"], {"PATH": os.environ["PATH"], **chosen}, ["true"])
    """
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    ours, users = done.stdout.splitlines()
    assert " --mca pml ob1 --mca btl ^openib,ofi " in ours and " -x NCCL_SOCKET_IFNAME=eth7 " in ours
    assert "--mca pml" not in users and " --mca btl ^openib,ofi " in users
    assert "btl_tcp_if_include eth7" in users and "-x NCCL_SOCKET_IFNAME " in users and "IFNAME=" not in users


def test_a_login_that_hangs_has_a_limit(tmp_path: Path) -> None:
    """An ssh whose login shell does not end takes the place of the other host."""
    (tmp_path / "ssh").write_text("#!/bin/sh\nexec sleep 1000\n")
    (tmp_path / "ssh").chmod(0o755)
    program = """if True:
        import threading
        from horovod.runner.common.util.hosts import SlotInfo
        from horovod.runner.common.util.settings import BaseSettings
        from app.launch import horovodrun_ranks
        assert horovodrun_ranks._LOGIN >= 60
        horovodrun_ranks._LOGIN = 0.5
        slot = SlotInfo("198.51.100.1", rank=3, local_rank=0, cross_rank=1, size=4, local_size=1, cross_size=4)
        rank = horovodrun_ranks.Rank(["true"], {}, {}, slot)
        print(horovodrun_ranks._starter(BaseSettings(elastic=True), 1)(rank, slot, [threading.Event()])[0])
    """
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0].endswith(
        "ssh to it failed: its login shell has started no program within 0.5 s: try `ssh 198.51.100.1`"
    )


def test_processes_that_mpi_cannot_connect() -> None:
    """srun --mpi=pmi2 tells each process its rank, but Debian's Open MPI only understands PMIx."""
    program = "from app.world import world; world.start('mpi', device='cpu')"
    environ = os.environ | {"PMI_RANK": "1", "PMI_SIZE": "2"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert "UserError: the launcher has started 2 processes, but this Open MPI cannot connect them" in done.stderr


def test_horovodrun_refuses_a_changed_host_key_and_asks_for_no_password() -> None:
    program = (
        "from app.launch import horovodrun_ranks; horovodrun_ranks.install();"
        "from horovod.runner.util.remote import get_remote_command as ssh; print(ssh('true', 'host', 2222))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split("ConnectTimeout=10")[0] == "ssh -o BatchMode=yes -o StrictHostKeyChecking=accept-new -o "


@pytest.mark.parametrize("elastic", [False, True])
def test_a_rank_that_horovodrun_cannot_start_is_a_failure(elastic: bool) -> None:
    """Otherwise the other ranks would wait for it."""
    program = f"""if True:
        import resource, threading
        from horovod.runner.common.util.hosts import SlotInfo
        from horovod.runner.common.util.settings import BaseSettings
        from app.launch.horovodrun_ranks import Rank, _starter
        slot = SlotInfo("localhost", rank=3, local_rank=3, cross_rank=0, size=4, local_size=4, cross_size=1)
        start = _starter(BaseSettings(elastic={elastic}), 1)
        rank = Rank(["true"], {{}}, {{}}, slot)
        print(start(rank, slot, [threading.Event()])[0], flush=True)
        resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4))
        print(start(rank, slot, [threading.Event()])[0], flush=True)
    """
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    started, line, end, code = done.stdout.splitlines()
    assert started == "0"
    assert line == (
        "[3]<stderr>:app failed: rank 3 on localhost, code 1: its process could not be started: "
        "[Errno 24] Too many open files"
    )
    assert (end, code) == ("Process 3 exit with status code 1.", "1")


def test_a_rank_that_horovodrun_was_asked_to_end_is_no_failure() -> None:
    """Otherwise a later failure of an elastic run would be taken for a consequence of the end of this rank."""
    program = """if True:
        import threading
        from horovod.runner.common.util.hosts import SlotInfo
        from horovod.runner.common.util.settings import BaseSettings
        from app.launch.horovodrun_ranks import Rank, _starter
        slot = SlotInfo("localhost", rank=3, local_rank=3, cross_rank=0, size=4, local_size=4, cross_size=1)
        start = _starter(BaseSettings(elastic=True), 1)
        for asked in (1, 0):  # the events ask this rank to end, and all ranks
            events = [threading.Event(), threading.Event()]
            threading.Timer(1, events[asked].set).start()
            print(start(Rank(["sleep", "100"], {}, {}, slot), slot, events)[0], flush=True)
    """
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["143", "Process 3 exit with status code 143.", "143"]
