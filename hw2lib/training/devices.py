"""Where things are computed: device, precision and processes."""

import ctypes
import logging
import os
import platform
from typing import TYPE_CHECKING

import torch

from hw2lib import Problem

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed"}


class TrainingError(Problem):
    """A training that cannot start or go on."""


def machine(device: str = "auto", precision: str = "auto") -> "Fabric":
    """Device, precision and processes, launched. Under torchrun all processes of the group take part.

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
    in_group = torch.distributed.is_torchelastic_launched()
    processes = {"devices": "auto", "strategy": "ddp"} if in_group else {"devices": 1}
    if in_group and device == "cpu":
        processes["devices"] = int(os.environ["LOCAL_WORLD_SIZE"])
    from lightning_fabric import Fabric  # takes seconds: not before something is computed

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # what it says, the provenance says
    fabric = Fabric(accelerator=device, precision=PRECISIONS[precision], **processes)
    fabric.launch()
    return fabric


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
