"""What a measurement was made on and with, without names of machines, users or folders.

Imports no torch: the parent of measured processes stays small.
"""

import datetime
import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "transformers", "peft", "accelerate", "safetensors", "tokenizers")
FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8", "asimd", "bf16")
THREAD_SETTINGS = ("OMP_NUM_THREADS", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
PRIVATE_OPTIONS = ("--work", "--out", "--checkpoint", "--data", "--tokenizer")


def environment_facts() -> dict[str, str]:
    """Return date, machine, versions and settings, ready for a table."""
    import danlu

    versions = {name: _version(name) for name in PACKAGES}
    facts = {
        "date": datetime.date.today().isoformat(),
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{_memory_bytes() / 1e9:.0f} GB",
        "load before": f"{os.getloadavg()[0]:.2f} (mean of one minute)",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "danlu": f"{danlu.__version__}, commit {_commit()}",
        "packages": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    settings = {name: os.environ[name] for name in THREAD_SETTINGS if name in os.environ}
    shown = ", ".join(f"{name}={value}" for name, value in settings.items())
    facts["thread settings (both sides)"] = shown or "libraries' defaults"
    return facts


def shown_command(module: str, arguments: Sequence[str]) -> str:
    """Return the command line without the options that name folders of this machine."""
    kept, skip = [], False
    for argument in arguments:
        name, _, value = argument.partition("=")
        if skip or name in PRIVATE_OPTIONS:
            skip = name in PRIVATE_OPTIONS and not value
            continue
        kept.append(argument)
    return shlex.join(["python", "-m", module, *kept])


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    lines = _lines("/proc/cpuinfo")
    name = next((v for k, v in lines if k == "model name"), platform.processor() or "unknown")
    found = next((v.split() for k, v in lines if k in ("flags", "Features")), [])
    return f"{name} ({', '.join(flag for flag in FLAGS if flag in found)})"


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _lines(path: str) -> list[tuple[str, str]]:
    """Return the `name: value` lines of a file under /proc; none where there is no such file."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError:
        return []
    pairs = (line.partition(":") for line in text.splitlines())
    return [(name.strip(), value.strip()) for name, _, value in pairs]


def _commit() -> str:
    commit = _git("rev-parse", "--short", "HEAD")
    if not commit:
        return "unknown"
    return f"{commit} with uncommitted changes" if _git("status", "-s", "danlu") else commit


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip()
