"""A process that holds one side of a measurement: it loads once and then answers commands.

Parent and worker speak JSON, one line each way. The worker's stdout belongs to the answers; what
libraries print goes to stderr.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from benchmarks.facts import ROOT

QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONWARNINGS": "ignore",
}
Answer = dict[str, Any]


class WorkerError(RuntimeError):
    """A worker ended before it answered; its own message is on stderr."""


class Worker:
    """One child process `python -m MODULE OPTIONS`; use it as a context manager.

    Args:
        module: calls `serve`.
        options: passed as one JSON argument.
        python: interpreter of another environment; None: this one.
    """

    def __init__(self, module: str, options: Mapping[str, Any], python: str | None = None) -> None:
        self._name = f"{module} {json.dumps(options)}"
        self._process = subprocess.Popen(
            [python or sys.executable, "-m", module, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **QUIET},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._commands, self._answers = self._process.stdin, self._process.stdout

    def ask(self, command: str, **arguments: Any) -> Answer:
        """Return the worker's answer.

        Raises:
            WorkerError: if it ended instead.
        """
        self._commands.write(json.dumps([command, arguments]) + "\n")
        self._commands.flush()
        line = self._answers.readline()
        if not line:
            raise WorkerError(f"The worker {self._name} ended with {self._process.wait()}.")
        answer: Answer = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        """Return the worker."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the process."""
        self._commands.close()
        self._answers.close()
        self._process.wait()


def options_of_worker() -> dict[str, Any]:
    """Return the options that the parent passed."""
    options: dict[str, Any] = json.loads(sys.argv[1])
    return options


def serve(handlers: Mapping[str, Callable[..., Answer]]) -> None:
    """Answer the parent's commands until it closes the pipe."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        command, arguments = json.loads(line)
        print(json.dumps(handlers[command](**arguments)), file=answers, flush=True)
