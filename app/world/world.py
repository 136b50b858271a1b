"""The processes of a run and their collectives. In a rank, only the modules of this folder use Horovod.

Every function waits until its collective is done. Every collective has a fixed name. Otherwise Horovod would choose
names that contain the number of calls so far, which differs between an old and a new process of an elastic run.
"""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import horovod.torch as hvd
import torch

from app.base.errors import UserError
from app.base.launcher_environment import (
    check_numbers,
    launcher,
    launcher_rank,
    local_size,
    local_slot,
    processes_per_host,
    set_rank,
    threads_asked_for,
)
from app.base.phase import WAITING, phase
from app.hosts import this_host
from app.world import allocator, connections, gloo_over_mpi, gpu
from app.world.compression import Compression
from app.world.packing import pack, unpack, unpack_all
from app.world.tuning import Tuning, spare_cores

__all__ = [
    "World",
    "broadcast_object",
    "broadcast_parameters",
    "distribute",
    "gather_objects",
    "launcher_rank",
    "start",
    "stop",
    "sum_over_processes",
    "sum_with_gradient",
]

DEFAULT = Tuning()
_NAPS = 5e-5, 1e-3  # the shortest and longest time in seconds between two checks whether a collective is done
COLLECTIVES = ("auto", "nccl", "mpi", "gloo")

_end_of_gloo_over_mpi: Callable[[], None] | None = None


@dataclass(frozen=True)
class World:
    """The rank of this process, and the libraries and devices that the run uses."""

    rank: int
    size: int
    local_rank: int  # the position of this process among those of its host
    local_size: int  # the number of processes on this host
    hosts: tuple[str, ...]  # the host name of each rank
    controller: str  # the library that coordinates the processes: "gloo", "mpi", or "none" without a launcher
    collectives: str  # the library that computes sums: "nccl", "mpi", "gloo", or "none" without a launcher
    device: torch.device
    spare_cores: bool = False  # whether each host has, for each of its processes, one core on which nothing computes

    def describe(self) -> list[str]:
        """Return lines of text about the processes."""
        hosts = ", ".join(f"{host} ({self.hosts.count(host)})" for host in dict.fromkeys(self.hosts))
        return [
            f"processes: {self.size} on {hosts}, device {self.device.type};"
            f" controller {self.controller}, collectives {self.collectives}"
        ]


def start(collectives: str = "auto", device: str = "auto") -> World:
    """Join the run and return its processes. This is `current_world(join(...))`."""
    return current_world(join(collectives, device))


def join(collectives: str = "auto", device: str = "auto", tuning: Tuning = DEFAULT) -> torch.device:
    """Start Horovod and choose the GPU of this process.

    It calls no collective, because a process that joins an elastic run later would call it alone.

    Args:
        collectives: "nccl", "mpi", "gloo", or "auto". On GPUs "auto" is NCCL if Horovod was built with it. On CPUs
            it is MPI under mpirun and gloo under horovodrun.
        device: "cpu", "cuda", or "auto", which is a GPU if there is one.
        tuning: The settings of Horovod and NCCL.

    Returns:
        The device of this process.

    Raises:
        UserError: The options or the environment do not fit this host, the launcher or the build of Horovod. If
            possible, it is raised before Horovod starts.
    """
    if collectives not in COLLECTIVES:
        raise UserError(f"--collectives {collectives} is unknown: choose {', '.join(COLLECTIVES)}")
    check_numbers(os.environ)
    kind = gpu.choose_kind(device)
    _check_build(collectives, kind)
    this_host.check_name()
    _choose_controller(collectives)
    os.environ |= tuning.environment(kind == "cuda" and hvd.nccl_built())
    connections.init()  # Horovod: this calls hvd.init(), which connects all ranks
    _check_connected()
    if kind == "cpu":
        allocator.keep_freed_memory()
    return _take_device(kind)


def current_world(device: torch.device) -> World:
    """Return the current processes of the run, and limit the threads of this process to its share of the cores.

    All processes must call this function. In an elastic run, they call it again after each change of the processes.
    """
    set_rank(hvd.rank())
    launched = launcher() != "none"
    controller = "mpi" if hvd.mpi_enabled() else "gloo"
    own = socket.gethostname(), spare_cores(), this_host.machine(), gpu.identity(device), device.type
    hosts, spare, machines, gpus, kinds = zip(*gather_objects(own), strict=True)
    check_hosts(hosts, machines)
    check_devices(hosts, kinds)
    if problem := gpu.find_shared(hosts, gpus):  # the result is the same on every rank
        raise UserError(problem)
    # Horovod's own local rank is not used. In an elastic run on the user's machine it is always 0, because there the
    # launcher tells Horovod that each slot is a host.
    here = [rank for rank, machine in enumerate(machines) if machine == this_host.machine()]
    _limit_threads(len(here))
    reduced_by = "nccl" if device.type == "cuda" and hvd.nccl_built() else controller
    return World(
        rank=hvd.rank(),
        size=hvd.size(),
        local_rank=here.index(hvd.rank()),
        local_size=len(here),
        hosts=hosts,
        controller=controller if launched else "none",
        collectives=reduced_by if launched else "none",
        device=device,
        spare_cores=all(spare),
    )


class WrongHosts(UserError):
    """The hosts of a run are not those that were asked for, or only some of them have GPUs."""

    everywhere = True


def check_hosts(hosts: Sequence[str], machines: Sequence[str]) -> None:
    """Compare the hosts of a run with those that were asked for.

    If two names in the host file mean the same machine, the launcher starts the processes of both names there, without
    a message.

    Args:
        hosts: The host name of each rank.
        machines: A text for each rank that identifies its machine.

    Raises:
        WrongHosts: The hosts differ. Every process raises it.
    """
    asked = processes_per_host()
    if sum(asked) == len(machines) and sorted(asked) != sorted(Counter(machines).values()):
        found = ", ".join(f"{host}:{count}" for host, count in Counter(hosts).items())
        raise WrongHosts(
            f"the launcher was asked for {len(asked)} hosts with {', '.join(map(str, asked))} processes,"
            f" but they run on {found}: several of the names mean one host; give the hosts by their addresses"
        )


def check_devices(hosts: Sequence[str], kinds: Sequence[str]) -> None:
    """Raise WrongHosts on every process if some processes compute on GPUs and others on CPUs.

    Args:
        hosts: The host name of each rank.
        kinds: "cpu" or "cuda" for each rank.
    """
    if "cpu" in kinds and "cuda" in kinds:
        without, other = kinds.index("cpu"), kinds.index("cuda")
        raise WrongHosts(
            f"rank {without} on {hosts[without]} finds no GPU, but rank {other} on {hosts[other]} does: leave out hosts"
            " without GPUs, or give --device cpu"
        )


def stop() -> None:
    """Leave the run together with the other processes.

    start() can be called again afterwards, except in the ranks of horovodrun. The store at which these ranks find each
    other would still return the addresses of the first start.
    """
    global _end_of_gloo_over_mpi
    with phase(WAITING):
        hvd.shutdown()
    if _end_of_gloo_over_mpi:
        _end_of_gloo_over_mpi()
        _end_of_gloo_over_mpi = None


def sum_over_processes(tensor: torch.Tensor, name: str = "sum") -> torch.Tensor:
    """Return the elementwise sum over all processes as a new tensor.

    Args:
        tensor: A tensor of any shape, which has the same shape and dtype on each process.
        name: The name of the collective, the same on each process.
    """
    return _done(hvd.allreduce_async(tensor.contiguous(), op=hvd.Sum, name=name))  # Horovod: sum over processes


def sum_with_gradient(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of a tensor over all processes. Autograd can compute gradients through this sum.

    The backward pass sums the gradients over all processes. All processes must call this function in the same order. It
    is only used for --sync-bn.
    """
    summed: torch.Tensor = _SumWithGradient.apply(tensor)
    return summed


class _SumWithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        return sum_over_processes(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return sum_over_processes(gradient)


def broadcast_object(obj: Any, root: int = 0) -> Any:
    """Return the object of the process `root` on every process. app.world.packing says which objects can be sent."""
    # hvd.broadcast_object does the same, but while it waits it takes a core from other threads (see _wait).
    packed = bytearray(pack(obj)) if hvd.rank() == root else bytearray()
    size = _done(hvd.broadcast_async(torch.tensor([len(packed)]), root, "object.size"))
    sent = torch.frombuffer(packed, dtype=torch.uint8) if packed else torch.empty(int(size), dtype=torch.uint8)
    received = _done(hvd.broadcast_async(sent, root, "object"))  # Horovod: all processes get the object of `root`
    return unpack(received.numpy().tobytes())


def broadcast_numbers(numbers: list[int], name: str, root: int = 0) -> list[int]:
    """Return the integers of the process `root` on every process. All processes must give lists of the same length."""
    sent = torch.tensor(numbers)
    # Horovod: all processes get the numbers of the process `root`.
    received: list[int] = _done(hvd.broadcast_async(sent, root, name)).tolist()
    return received


def gather_objects(obj: Any) -> list[Any]:
    """Return a list with the objects of all processes, ordered by rank, on every process."""
    packed = torch.frombuffer(bytearray(pack(obj)), dtype=torch.uint8)
    joined = _done(hvd.allgather_async(packed, "objects"))  # Horovod: each process gets the objects of all
    return unpack_all(joined.numpy().tobytes(), hvd.size())


@torch.no_grad()
def broadcast_parameters(named: Iterable[tuple[str, torch.Tensor]], root: int = 0) -> None:
    """Overwrite tensors with those of the process `root`.

    Args:
        named: Pairs of a name and a tensor. Names, shapes and dtypes are the same on every process.
        root: The rank whose tensors are sent.
    """
    pairs = [(tensor, tensor.detach().contiguous(), f"parameter.{name}") for name, tensor in named]
    # Horovod: all processes get the tensors of the process `root`.
    handles = [hvd.broadcast_async_(sent, root, name) for _, sent, name in pairs]
    for handle, (tensor, sent, _) in zip(handles, pairs, strict=True):
        _done(handle)
        if sent.data_ptr() != tensor.data_ptr():
            tensor.copy_(sent)


def distribute(
    optimizer: torch.optim.Optimizer,
    named_parameters: Iterable[tuple[str, torch.nn.Parameter]],
    passes: int,
    compression: Compression,
    overlap: bool = True,
) -> Any:
    """Return an optimizer whose step() first sums the gradients over all processes.

    The sum is not divided, because the loss is already divided by kn (section 3, remark 3).

    Args:
        optimizer: The optimizer of this process.
        named_parameters: Pairs of a name and a parameter.
        passes: The number of backward passes that this process makes in a step, at least 1.
        compression: The format in which gradients are sent.
        overlap: If true, each sum starts as soon as its gradient is ready in the last pass. Otherwise all sums start at
            the end of the last pass. It must be the same on every process.

    Returns:
        The optimizer. Its attribute `waited` is the time in seconds for which it has waited for sums. Never call
        hvd.broadcast_optimizer_state with it, because that function makes a real step if the optimizer has made none.
    """
    distributed = hvd.DistributedOptimizer(  # Horovod: this sums the gradients over all processes
        optimizer,
        named_parameters=named_parameters,
        compression=compression,
        backward_passes_per_step=passes,
        op=hvd.Sum,
        # Horovod: in a group, all sums start together. The tensors of a group must have the same dtype.
        groups=None if overlap or compression.mixed else 1,
    )
    take_sums = distributed.synchronize

    def synchronize() -> None:
        _wait_for_gradients(optimizer)
        started = time.monotonic()
        for handle, _ in distributed._handles.values():
            if handle is not None:
                _wait(handle)
        take_sums()
        distributed.waited += time.monotonic() - started

    distributed.synchronize, distributed.waited = synchronize, 0.0
    return distributed


def _wait_for_gradients(optimizer: torch.optim.Optimizer) -> None:
    """If the network is on a GPU, wait until the backward pass is done.

    Otherwise the rest of the backward pass would count as time of waiting for the allreduce of the gradients. Waiting
    here makes no step longer, because the allreduce cannot end before the backward pass. This function does nothing if
    HOROVOD_ENABLE_ASYNC_COMPLETION is set, because with this setting a process does not wait for the GPU in a step.
    """
    device = optimizer.param_groups[0]["params"][0].device
    if device.type == "cuda" and os.environ.get("HOROVOD_ENABLE_ASYNC_COMPLETION", "0") in ("0", ""):
        torch.cuda.current_stream(device).synchronize()


def _wait(handle: int) -> None:
    """Wait until a collective is done.

    Horovod's own way to wait calls sched_yield in a loop. If processes use all cores, this takes the core that
    Horovod's thread needs to compute the sums.
    """
    nap, longest = _NAPS
    with phase(WAITING):
        while not hvd.poll(handle):
            time.sleep(nap)
            nap = min(1.1 * nap, longest)


def _done(handle: int) -> torch.Tensor:
    """Wait for a collective and return its result."""
    _wait(handle)
    result: torch.Tensor = hvd.synchronize(handle)
    return result


def _check_build(collectives: str, kind: str) -> None:
    if collectives == "nccl" and kind == "cpu":
        raise this_host.no_gpu_for_nccl()
    built = {"nccl": hvd.nccl_built, "mpi": hvd.mpi_built, "gloo": hvd.gloo_built}
    if collectives != "auto" and not built[collectives]():
        raise UserError(
            f"--collectives {collectives}: Horovod was built without it: set up again, or give --collectives auto"
        )
    if kind == "cuda" and hvd.nccl_built() and collectives in ("mpi", "gloo"):
        raise UserError(
            f"--collectives {collectives}: this Horovod sums GPU tensors only by NCCL: leave it out, or give --device"
            " cpu"
        )
    if kind == "cuda" and not hvd.cuda_built() and launcher() != "none":
        raise UserError(
            "this Horovod was built for CPUs and cannot sum on GPUs: set up again with NCCL, or give --device cpu"
        )


def _choose_controller(collectives: str) -> None:
    """Set the environment variables by which hvd.init() chooses MPI or gloo.

    If MPI and gloo are both possible with "auto", HOROVOD_CPU_OPERATIONS or HOROVOD_CONTROLLER decides. The default is
    MPI.
    """
    global _end_of_gloo_over_mpi
    started_by = launcher()
    if started_by == "horovodrun":  # horovodrun has already set these variables for gloo
        if collectives == "mpi":
            raise UserError(
                "--collectives mpi: these processes were started by horovodrun --gloo: use horovodrun --mpi or mpirun"
            )
        return
    wanted = collectives
    if collectives == "auto":
        wanted = os.environ.get("HOROVOD_CPU_OPERATIONS", os.environ.get("HOROVOD_CONTROLLER", "mpi")).lower()
    if started_by == "mpirun" and (wanted == "gloo" or not hvd.mpi_built()):
        _end_of_gloo_over_mpi = gloo_over_mpi.prepare()
    elif started_by == "mpirun" or collectives == "mpi":
        # mpi4py starts MPI, and ends it when the process exits. If Horovod started MPI, stop() would end it, and
        # it could not be started again.
        import mpi4py.MPI  # noqa: F401

        os.environ |= {"HOROVOD_CONTROLLER": "mpi", "HOROVOD_CPU_OPERATIONS": "mpi"}
    else:
        os.environ |= {
            "HOROVOD_CONTROLLER": "gloo",
            "HOROVOD_CPU_OPERATIONS": "gloo",
            "HOROVOD_GLOO_IFACE": "lo",
        }


def _check_connected() -> None:
    """Raise UserError if this process is alone, although a launcher without PMIx has started several.

    Such launchers are srun --mpi=pmi2 and MPICH's mpiexec. They use the protocol PMI, which most builds of Open MPI do
    not know. Each process would then be a separate run.
    """
    started = os.environ.get("PMI_SIZE", "1")
    if hvd.size() == 1 and started.isdigit() and int(started) > 1 and "PMIX_RANK" not in os.environ:
        raise UserError(
            f"the launcher has started {started} processes, but this Open MPI cannot connect them, and each would start"
            " a whole run: start them with srun --mpi=pmix, or let ./run.sh start the processes"
        )


def _limit_threads(processes: int) -> None:
    """Give this process an equal share of its host's cores, unless OMP_NUM_THREADS sets the number of threads.

    By default, torch would use all cores in each process.
    """
    if threads_asked_for(os.environ) is None:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))


def _take_device(kind: str) -> torch.device:
    if kind == "cpu":
        return torch.device("cpu")
    slot = local_slot()  # elastic runs list each slot as a separate host, and Horovod's local rank is then always 0
    rank, size = (hvd.local_rank(), hvd.local_size()) if slot is None else (slot, local_size())
    index = gpu.choose_index(rank, size, torch.cuda.device_count())
    torch.cuda.set_device(index)  # Horovod: each process uses one GPU
    return torch.device("cuda", index)
