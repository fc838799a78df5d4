"""The dtype that models are compared in: float32 where it fits beside the quantized model."""

import os
from pathlib import Path

import torch

from danlu.commands.quantize.source import Source
from danlu.loading import stored_dtype

MEMORY = Path("/proc/meminfo")
SHARE = 0.6  # of the free memory that the original may take; the quantized model comes beside it


def compared_dtype(source: Source, device: torch.device) -> torch.dtype:
    """Return float32, or the dtype the original is stored in where float32 would not fit."""
    numbers = sum(parameter.numel() for parameter in source.shape().parameters())
    fits = numbers * torch.float32.itemsize <= SHARE * free_bytes(device)
    return torch.float32 if fits else stored_dtype(source.folder)


def free_bytes(device: torch.device) -> int:
    """Return the memory of a device that nobody uses."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free
    if MEMORY.is_file():
        lines = dict(line.split(":", 1) for line in MEMORY.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
