"""Runs a pre-training and kills it with SIGKILL, again and again, at chosen moments.

    python tests/train_killing.py RUN.json MOMENT...

At each moment a fresh child goes on with the run and dies at its MOMENT-th write, flush or rename;
a last child runs to the end. Forked children share the imports, so one kill takes a fraction of a
second; nothing but imports happens in this process before the forks.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.figure  # noqa: F401  imported here, once, instead of in each child
import torch
import torch._dynamo  # likewise: the first optimizer step imports it

from danlu.commands.pretrain import run_pretrain
from danlu.config.load import load_config
from danlu.config.run import PretrainRun
from danlu.train import checkpoint


def die_at(moment: int) -> None:
    """Let this process die at the `moment`-th call of anything that touches the disk."""
    left = moment

    def watched(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        return call

    os.replace = watched(os.replace)
    os.fsync = watched(os.fsync)
    checkpoint.write_tensors = watched(checkpoint.write_tensors)  # type: ignore[attr-defined]
    Path.write_text = watched(Path.write_text)  # type: ignore[method-assign]


def child(run: PretrainRun, moment: int | None) -> int:
    """Run in a forked child; return its exit status."""
    pid = os.fork()
    if pid == 0:
        torch.set_num_threads(1)
        if moment is not None:
            die_at(moment)
        run_pretrain(run)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main() -> None:
    """Kill at every moment given, then let the run end; print how the children ended."""
    run = load_config(PretrainRun, Path(sys.argv[1]))
    moments = [int(argument) for argument in sys.argv[2:]]
    print(*[child(run, moment) for moment in [*moments, None]])


if __name__ == "__main__":
    main()
