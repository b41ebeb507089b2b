"""Where and when things are computed: device, precision, processes, versions."""

import ctypes
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from hw2lib import ROOT, Problem, in_one_line, processes

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed"}


class TrainingError(Problem):
    """A training that cannot start or go on."""


def machine(device: str = "auto", precision: str = "auto") -> "Fabric":
    """Device, precision and processes, launched. Under torchrun all processes of the group take part, on any machines.

    device: "auto" (CUDA, else MPS, else CPU), "cpu", "cuda" or "mps". precision: "32", "bf16", or "auto", which is
    bf16 where the hardware computes in it. Raises TrainingError for anything else and for a device that is not there.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        device = next(name for name in ("cuda", "mps", "cpu") if there[name])
    if not there.get(device):
        has = ", ".join(name for name in there if there[name])
        raise TrainingError(f'no device "{device}" here: say auto or one of {has}')
    if precision == "auto":
        precision = "bf16" if _computes_bf16(device) else "32"
    if precision not in PRECISIONS:
        raise TrainingError(f'no precision "{precision}": say auto, {" or ".join(PRECISIONS)}')
    from lightning_fabric import Fabric  # takes seconds: not before something is computed
    from lightning_fabric.plugins.environments import LightningEnvironment

    group = {"devices": 1, "plugins": LightningEnvironment()}  # whatever a scheduler's variables say
    os.environ.pop("LT_CLI_USED", None)  # `fabric run` is torchrun, and would launch in place of this function
    if processes.launched():
        here, all_of_them = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
        if device != "cpu":  # whose cores torchrun may share out as it likes
            require_devices(device, here)
        group = {"devices": here, "num_nodes": all_of_them // here, "strategy": "ddp"}
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # what it says, the provenance says
    fabric = Fabric(accelerator=device, precision=PRECISIONS[precision], **group)
    fabric.launch()
    return fabric


def require_devices(device: str, number: int) -> None:
    """Raise TrainingError unless each of `number` processes on this machine can have a device, or a core, of its own."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    there = {"cpu": os.cpu_count() or 1, "cuda": torch.cuda.device_count()}.get(device, 1)
    if number > there:
        raise TrainingError(f"{number} processes for {there} of {device} here: say devices={there} or fewer")


def in_processes(number: int, device: str, arguments: list[str]) -> int:
    """Run `python -m hw2lib` with these arguments in `number` processes on this machine; returns the exit code.

    As torchrun does it, but for its traceback: what is wrong, the first process has said. Raises TrainingError if there are
    not as many of `device`, and if a process was killed.
    """
    require_devices(device, number)
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable(logging.CRITICAL)  # what torchrun says of it is said better
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // number)))
    words = ["--standalone", "--nproc_per_node", str(number), "-m", "hw2lib", *arguments]
    try:
        torchrun.run(torchrun.parse_args(words))
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        if failure.exitcode < 0:
            killed = f"process {rank} of {number} was killed by signal {-failure.exitcode}"
            raise TrainingError(f"{killed}: the same command goes on from the last checkpoint") from None
        return failure.exitcode
    except SignalException as stopped:
        return 128 + stopped.sigval
    finally:
        logging.disable(logging.NOTSET)
    return 0


def run_apart(arguments: list[str]) -> None:
    """Run `python -m hw2lib` with these arguments in a process of its own, and print what it prints.

    Raises TrainingError with its last line if it fails. Whatever stops this process stops that one, too.
    """
    line, streams = "", {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    command = [sys.executable, "-m", "hw2lib", *arguments]
    with subprocess.Popen(command, text=True, errors="replace", **streams) as training:
        try:
            for line in training.stdout:
                print(line, end="", flush=True)
        except BaseException:
            training.terminate()  # it makes a checkpoint, and says so
            print(training.stdout.read(), end="", flush=True)
            raise
    if training.returncode:
        raise TrainingError(line.strip().removeprefix("TrainingError: ") or f"{' '.join(arguments[:2])} failed")


@contextmanager
def compiled(networks: Iterable[nn.Module]) -> Iterator[None]:
    """In this block the networks are compiled by torch.compile as they are called; after it they are as they were.

    Raises TrainingError where nothing can be compiled.
    """
    networks = list(networks)
    device = next(networks[0].parameters()).device
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(1, device=device))
    except Exception as error:  # no compiler raises nearly anything
        why = in_one_line(error)[:200]
        raise TrainingError(f"nothing can be compiled here ({why}): leave out compiled, or install g++") from None
    torch._dynamo.config.recompile_limit = 64  # all networks count as one function, each with several kinds of input
    for network in networks:
        network.compile()
    try:
        yield
    finally:
        for network in networks:
            network._compiled_call_impl = None


def precision_of(fabric: "Fabric") -> str:
    """ "32" or "bf16", whatever was asked for."""
    return next(short for short, long in PRECISIONS.items() if fabric._precision.precision == long)


def _computes_bf16(device: str) -> bool:
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and bool(_processor().get("avx512_bf16") or _processor().get("amx_bf16"))


def _processor() -> dict:
    """What torch knows of the CPU; older versions do not tell."""
    return torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}


def memory_there(cuda: bool) -> int:
    """Bytes of the GPU, or of this machine, or of the container's share of it."""
    if cuda:
        return torch.cuda.get_device_properties(0).total_memory
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        if os.path.exists(path) and (limit := Path(path).read_text().strip()).isdigit():
            limits.append(int(limit))
    return min(limits)


def keep_freed_memory() -> None:
    """Let the C library keep freed blocks instead of giving each back to the system and fetching it anew.

    Activations of tens of megabytes come and go thousands of times; the page faults were a fifth of a VQ-VAE step
    on two cores. Only glibc has the setting; elsewhere nothing happens.
    """
    if platform.libc_ver()[0] == "glibc":
        m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4
        libc = ctypes.CDLL(None)
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
        libc.mallopt(m_top_pad, 64 << 20)


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {_processor().get('cpu_name', platform.processor())}".strip()


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def surroundings() -> dict:
    """Commit, versions and machine: what a number may depend on beside the config."""

    def git(*words: str) -> str | None:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain")
    except OSError:  # no git on this machine
        commit, changes = None, None
    packages = ("torch", "torchvision", "numpy", "lightning-fabric")
    return {
        "commit": commit or "unknown",
        "dirty": bool(changes) if changes is not None else None,
        "python": platform.python_version(),
        "versions": {package: version(package) for package in packages},
        "system": f"{platform.system()} {platform.machine()}",
    }
