"""The processes of a run and their collectives. Only this folder uses Horovod inside a rank.

Every collective waits for its end, and has a fixed name. The names that Horovod would choose contain a number of calls,
which differs between a process that has trained for a while and one that has just joined.
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
    local_slot,
    processes_per_host,
    rank_is,
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
_NAPS = 5e-5, 1e-3  # the shortest and longest seconds between two looks for the end of a collective
COLLECTIVES = ("auto", "nccl", "mpi", "gloo")

_end_of_gloo_over_mpi: Callable[[], None] | None = None


@dataclass(frozen=True)
class World:
    """The place of this process among the others, and the libraries and devices that are really used."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    hosts: tuple[str, ...]  # host name of each rank
    controller: str  # "gloo", "mpi", or "none" without a launcher
    collectives: str  # "nccl", "mpi", "gloo", or "none" without a launcher
    device: torch.device
    spare_cores: bool = False  # whether every host has a core for each process in addition to those that compute

    def describe(self) -> list[str]:
        """Return lines of text about the processes."""
        hosts = ", ".join(f"{host} ({self.hosts.count(host)})" for host in dict.fromkeys(self.hosts))
        return [
            f"processes: {self.size} on {hosts}, device {self.device.type};"
            f" controller {self.controller}, collectives {self.collectives}"
        ]


def start(collectives: str = "auto", device: str = "auto") -> World:
    """Join the run and return its processes. It calls join() and current_world()."""
    return current_world(join(collectives, device))


def join(collectives: str = "auto", device: str = "auto", tuning: Tuning = DEFAULT) -> torch.device:
    """Join the run: start Horovod, choose the GPU of this local rank, and limit threads to this process's share of the
    cores.

    It makes no collective, because a process that joins an elastic run later meets the others in the middle of theirs.

    collectives: "auto" is NCCL on GPUs if Horovod has it, otherwise MPI under mpirun and gloo under horovodrun.
    device: "auto" is a GPU if there is one.

    Raises UserError, if possible before Horovod starts, if something that was asked for is missing.
    """
    if collectives not in COLLECTIVES:
        raise UserError(f"--collectives {collectives} is unknown: choose {', '.join(COLLECTIVES)}")
    check_numbers(os.environ)
    kind = gpu.choose_kind(device)
    _check_build(collectives, kind)
    this_host.check_name()
    _choose_controller(collectives)
    os.environ |= tuning.environment(kind == "cuda" and hvd.nccl_built())
    connections.init()  # Horovod: connects all ranks
    _limit_threads()
    if kind == "cpu":
        allocator.keep_freed_memory()
    return _take_device(kind)


def current_world(device: torch.device) -> World:
    """Return the present processes. All of them must call it."""
    rank_is(hvd.rank())
    launched = launcher() != "none"
    controller = "mpi" if hvd.mpi_enabled() else "gloo"
    own = socket.gethostname(), spare_cores(), this_host.machine(), gpu.identity(device)
    hosts, spare, machines, gpus = zip(*gather_objects(own), strict=True)
    check_hosts(hosts, machines)
    if problem := gpu.find_shared(hosts, gpus):  # the result is the same on every rank
        raise UserError(problem)
    reduced_by = "nccl" if device.type == "cuda" and hvd.nccl_built() else controller
    return World(
        rank=hvd.rank(),
        size=hvd.size(),
        local_rank=hvd.local_rank(),
        local_size=hvd.local_size(),
        hosts=hosts,
        controller=controller if launched else "none",
        collectives=reduced_by if launched else "none",
        device=device,
        spare_cores=all(spare),
    )


class WrongHosts(UserError):
    """The launcher has started processes on other hosts than it was asked to."""

    everywhere = True


def check_hosts(hosts: Sequence[str], machines: Sequence[str]) -> None:
    """Compare the hosts of a run with those that were asked for. Raises WrongHosts on every process.

    If two names mean the same host, a launcher would otherwise start all processes there without any message.

    hosts, machines: for each rank, the name of its host, and text that identifies its machine.
    """
    asked = processes_per_host()
    if sum(asked) == len(machines) and sorted(asked) != sorted(Counter(machines).values()):
        found = ", ".join(f"{host}:{count}" for host, count in Counter(hosts).items())
        raise WrongHosts(
            f"the launcher was asked for {len(asked)} hosts with {', '.join(map(str, asked))} processes,"
            f" but they run on {found}: it takes several names for one host; give the hosts by their addresses"
        )


def stop() -> None:
    """Leave the run together with the other processes. start() can be called again afterwards."""
    global _end_of_gloo_over_mpi
    with phase(WAITING):
        hvd.shutdown()
    if _end_of_gloo_over_mpi:
        _end_of_gloo_over_mpi()
        _end_of_gloo_over_mpi = None


def sum_over_processes(tensor: torch.Tensor, name: str = "sum") -> torch.Tensor:
    """Return the elementwise sum over all processes, a new tensor. Shape and dtype are the same on each process."""
    return _done(hvd.allreduce_async(tensor.contiguous(), op=hvd.Sum, name=name))  # Horovod: sum


def sum_with_gradient(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum over all processes, as a step of the computation that has a gradient.

    Its backward pass sums the gradients over all processes. Every process must call it in the same order. It is only
    used for --sync-bn.
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
    """Returns the object of the process `root` on every process. app.world.packing says which objects can be sent."""
    # This is what hvd.broadcast_object and hvd.allgather_object do, except for the way of waiting (see _wait).
    packed = bytearray(pack(obj)) if hvd.rank() == root else bytearray()
    size = _done(hvd.broadcast_async(torch.tensor([len(packed)]), root, "object.size"))
    sent = torch.frombuffer(packed, dtype=torch.uint8) if packed else torch.empty(int(size), dtype=torch.uint8)
    received = _done(hvd.broadcast_async(sent, root, "object"))  # Horovod: broadcast of an object
    return unpack(received.numpy().tobytes())


def broadcast_numbers(numbers: list[int], name: str, root: int = 0) -> list[int]:
    """Return the whole numbers of the process `root`. Every process gives the same number of them."""
    received: list[int] = _done(
        hvd.broadcast_async(torch.tensor(numbers), root, name)
    ).tolist()  # Horovod: broadcast of a few numbers
    return received


def gather_objects(obj: Any) -> list[Any]:
    """Returns the objects of all processes on every process, ordered by rank."""
    packed = torch.frombuffer(bytearray(pack(obj)), dtype=torch.uint8)
    joined = _done(hvd.allgather_async(packed, "objects"))  # Horovod: allgather of objects
    return unpack_all(joined.numpy().tobytes(), hvd.size())


@torch.no_grad()
def broadcast_parameters(named: Iterable[tuple[str, torch.Tensor]], root: int = 0) -> None:
    """Overwrites the tensors with those of `root`. Names, shapes and dtypes are the same on every process."""
    pairs = [(tensor, tensor.detach().contiguous(), f"parameter.{name}") for name, tensor in named]
    handles = [hvd.broadcast_async_(sent, root, name) for _, sent, name in pairs]  # Horovod: broadcast of parameters
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
    """Return the optimizer whose step() first sums the gradients over all processes.

    passes: how many backward passes this process makes in a step, at least 1.
    overlap: whether the sums start layer by layer in the last pass, or all at its end. It is the same on every process.

    The sum is not divided, because the loss is already divided by kn (section 3, remark 3). The attribute `waited` has
    the seconds spent in waiting for the sums. Never call broadcast_optimizer_state on it.
    """
    distributed = hvd.DistributedOptimizer(  # Horovod: sums gradients
        optimizer,
        named_parameters=named_parameters,
        compression=compression,
        backward_passes_per_step=passes,
        op=hvd.Sum,
        groups=None if overlap or compression.mixed else 1,  # Horovod: all tensors of a group have the same dtype
    )
    take_sums = distributed.synchronize

    def synchronize() -> None:
        started = time.monotonic()
        for handle, _ in distributed._handles.values():
            if handle is not None:
                _wait(handle)
        take_sums()
        distributed.waited += time.monotonic() - started

    distributed.synchronize, distributed.waited = synchronize, 0.0
    return distributed


def _wait(handle: int) -> None:
    """Wait until a collective is done.

    Horovod's own wait calls sched_yield in a loop. If processes use all cores, this takes the core that Horovod's
    thread needs to make the sums.
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
        raise UserError(
            f"--collectives nccl needs a GPU and {socket.gethostname()} uses none: give --collectives gloo or mpi"
        )
    built = {"nccl": hvd.nccl_built, "mpi": hvd.mpi_built, "gloo": hvd.gloo_built}
    if collectives != "auto" and not built[collectives]():
        raise UserError(
            f"--collectives {collectives}: Horovod was built without it: set up again, or give --collectives auto"
        )
    if kind == "cuda" and hvd.nccl_built() and collectives in ("mpi", "gloo"):
        raise UserError(
            f"--collectives {collectives}: this Horovod reduces GPU tensors by NCCL only: drop it, or give --device cpu"
        )
    if kind == "cuda" and not hvd.cuda_built() and launcher() != "none":
        raise UserError(
            "this Horovod was built for CPUs, it cannot reduce on GPUs: set up again with NCCL, or give --device cpu"
        )


def _choose_controller(collectives: str) -> None:
    """Set the variables that hvd.init() reads. "auto" follows the environment, if it has a choice."""
    global _end_of_gloo_over_mpi
    started_by = launcher()
    if started_by == "horovodrun":  # horovodrun has set all variables
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
        # mpi4py starts MPI and ends it at exit. If Horovod started it, MPI would end at stop().
        import mpi4py.MPI  # noqa: F401

        os.environ |= {"HOROVOD_CONTROLLER": "mpi", "HOROVOD_CPU_OPERATIONS": "mpi"}
    else:
        os.environ |= {
            "HOROVOD_CONTROLLER": "gloo",
            "HOROVOD_CPU_OPERATIONS": "gloo",
            "HOROVOD_GLOO_IFACE": "lo",
        }


def _limit_threads() -> None:
    """Divide the cores of this host among its processes, unless OMP_NUM_THREADS says how many threads each has.

    torch would use all cores in each process.
    """
    if threads_asked_for(os.environ) is None:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // hvd.local_size()))


def _take_device(kind: str) -> torch.device:
    if kind == "cpu":
        return torch.device("cpu")
    slot = local_slot()  # only an elastic run has it: each slot of this machine is listed as another host
    rank = hvd.local_rank() if slot is None else slot
    index = gpu.choose_index(rank, hvd.local_size(), torch.cuda.device_count())
    torch.cuda.set_device(index)  # Horovod: one GPU per process
    return torch.device("cuda", index)
