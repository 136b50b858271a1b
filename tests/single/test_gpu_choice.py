"""The choice of a GPU for each process, and the messages if torch cannot use a GPU.

The tests need no GPU. A small libcuda.so.1, which reports an old version, takes the place of an old driver. Functions
of torch that describe GPUs are replaced.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from app.base.errors import UserError
from app.world import gpu, world

ROOT = Path(__file__).parents[2]
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")

OLD_DRIVER = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <string.h>
static int too_old(void) { return 35; }
int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { *version = 11040; return 0; }
int cuGetExportTable(const void **table, const void *id) { *table = 0; return 500; }
int cuGetProcAddress_v2(const char *name, void **found, int version, unsigned long long flags, int *status) {
  void *self = dlopen("libcuda.so.1", RTLD_NOLOAD | RTLD_LAZY);
  *found = strcmp(name, "cuGetProcAddress") ? dlsym(self, name) : (void *)cuGetProcAddress_v2;
  if (!*found) *found = too_old;
  if (status) *status = 0;
  return 0;
}
int cuGetProcAddress(const char *name, void **found, int version, unsigned long long flags) {
  return cuGetProcAddress_v2(name, found, version, flags, 0);
}
"""
CHOOSE = """
import sys
from app.base.errors import UserError
from app.world import gpu
gpu._DEVICE_FILES = sys.argv[1]
for device in ("cpu", "auto", "cuda"):
    try:
        print(device, gpu.choose_kind(device))
    except UserError as error:
        print(device, "error:", error)
"""


def choose(folder: Path) -> tuple[list[str], str]:
    """Choose devices in a process whose CUDA driver and device files are in `folder`."""
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run(
        [sys.executable, "-c", CHOOSE, f"{folder}/nvidia[0-9]*"],
        env=environment | {"LD_LIBRARY_PATH": str(folder)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines(), done.stderr


@no_gpu
def test_a_driver_that_is_too_old_for_torch_is_an_error_with_its_fix(tmp_path: Path) -> None:
    (tmp_path / "cuda.c").write_text(OLD_DRIVER)
    (tmp_path / "nvidia0").touch()
    (tmp_path / "nvidiactl").touch()
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", "libcuda.so.1", "cuda.c", "-ldl"], cwd=tmp_path, check=True)
    (cpu, auto, cuda), warned = choose(tmp_path)
    assert cpu == "cpu cpu"
    assert warned == ""
    for line in (auto, cuda):
        assert f"has 1 GPU(s), but torch {torch.__version__} (CUDA {torch.version.cuda}) cannot use them" in line
        assert ": The NVIDIA driver on your system is too old (found version 11040). Update the driver, or use" in line
        assert "./run.sh setup --torch PYTHON" in line
        assert "--device cpu" in line


@no_gpu
def test_gpus_that_are_hidden_or_not_there_are_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpu, "_DEVICE_FILES", f"{tmp_path}/nvidia[0-9]*")
    assert gpu.choose_kind("auto") == "cpu"
    (tmp_path / "nvidia0").touch()
    with pytest.raises(UserError, match="has 1 GPU"):
        gpu.choose_kind("auto")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu.choose_kind("auto") == "cpu"


def test_gpus_that_a_variable_hides(monkeypatch: pytest.MonkeyPatch) -> None:
    for visible, hidden in (
        ("", True), ("-1", True), ("NoDevFiles", True), ("none", True), ("2", True), ("0,0", True), ("1", False),
        ("0,none", False), ("GPU-0aaa", False), ("MIG-0ccc", False),
    ):  # fmt: skip
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert gpu._hidden(gpus=2) is hidden, visible


@pytest.mark.parametrize(
    ("capability", "built", "runs"),
    [
        ((7, 0), ["sm_75", "sm_80", "sm_90"], False),  # V100
        ((6, 0), ["sm_75", "sm_80", "sm_90"], False),  # P100
        ((8, 9), ["sm_80", "sm_90"], True),  # code for 8.0 also runs on 8.9, which has the same major version
        ((8, 0), ["sm_86", "sm_90"], False),
        ((10, 3), ["sm_90", "sm_100"], True),
        ((12, 1), ["sm_90"], False),
        ((12, 1), ["sm_90", "compute_90"], True),  # the driver can compile PTX code for newer GPUs
        ((9, 0), ["sm_90a"], True),
        ((10, 3), ["sm_100a", "compute_100a"], False),  # the suffix "a" means code for exactly this architecture
    ],
)
def test_machine_code_and_ptx_run_where_nvidia_says_that_they_run(
    capability: tuple[int, int], built: list[str], runs: bool
) -> None:
    assert gpu.has_code(capability, built) is runs


def test_a_card_that_torch_has_no_code_for_is_named_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = {0: ((9, 0), "NVIDIA H100"), 1: ((7, 0), "Tesla V100-SXM2-16GB")}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: cards[index][0])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: cards[index][1])
    # Without a driver, torch still knows for which architectures it was built.
    assert "sm_90" in torch.cuda.get_arch_list()
    if "sm_70" not in torch.cuda.get_arch_list():
        with pytest.raises(UserError, match=r"GPU 1 of .*Tesla V100-SXM2-16GB, is sm_70, .*use torch 2\.7\.1.*--torch"):
            gpu.choose_kind("auto")
    cards[1] = ((9, 0), "NVIDIA H100")
    assert gpu.choose_kind("auto") == "cuda"


def test_a_process_that_sees_one_gpu_takes_it_whatever_its_local_rank() -> None:
    assert gpu.choose_index(local_rank=3, local_size=8, gpus=1) == 0
    assert gpu.choose_index(local_rank=3, local_size=8, gpus=8) == 3
    with pytest.raises(UserError, match=r"8 processes but 4 GPUs on .*: lower its slots or -np"):
        gpu.choose_index(local_rank=4, local_size=8, gpus=4)


def test_two_ranks_with_one_gpu_are_found_over_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu.find_shared(["a", "a", "b", "b"], ["gpu-1", "gpu-2", "gpu-1", "gpu-2"]) == ""
    assert gpu.find_shared(["a", "a"], ["", ""]) == ""  # the two ranks have no GPU
    said = gpu.find_shared(["a", "b", "a", "b"], ["gpu-1", "gpu-1", "gpu-2", "gpu-1"])
    assert said.startswith("ranks 1, 3 have the same GPU of b: lower its slots or -np")

    device = world.join(device="cpu")
    monkeypatch.setattr(gpu, "identity", lambda device: "gpu-1")
    assert world.current_world(device).size == 1
    gather = world.gather_objects
    monkeypatch.setattr(world, "gather_objects", lambda mine: gather(mine) * 2)  # pretends that there is a second rank
    with pytest.raises(UserError, match="ranks 0, 1 have the same GPU"):
        world.current_world(device)
    world.stop()
