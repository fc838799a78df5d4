"""Work in other processes, in order: results come as the items were given, errors come whole.

A worker is a fresh interpreter that reads pickled items from its standard input and answers on its
standard output. It is not forked, so threads and devices of this process do not matter, and it does
not import the user's script again, so scripts and notebooks need no guard. It ends with its input:
when the work is done, at Ctrl-C, and also when this process is killed.
"""

import logging
import os
import pickle
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from types import TracebackType
from typing import IO, Any, Generic, TypeVar

from danlu.errors import DanluError, DataError

Item = TypeVar("Item")
Result = TypeVar("Result")
_LENGTH_BYTES = 8
_AHEAD = 3  # items for each worker that wait or are done before they are asked for
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_START = "import sys; sys.path[:] = {path!r}; from danlu.data.encoded.workers import serve; serve()"

_log = logging.getLogger(__name__)


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WorkerPool(Generic[Item, Result]):
    """Processes that all apply one function. Used as a context, or closed in the end.

    Args:
        work: what is done with each item; it and the items can be pickled.
        workers: how many processes.
        name: says which item it was if its process dies.
    """

    def __init__(
        self, work: Callable[[Item], Result], workers: int, name: Callable[[Item], str] = repr
    ) -> None:
        self.workers = workers
        self._name = name
        payload = pickle.dumps(work, pickle.HIGHEST_PROTOCOL)
        self._all: list[_Worker] = []
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        self._threads = ThreadPoolExecutor(workers, "danlu-worker")
        for _ in range(workers):
            worker = _Worker(payload)
            self._all.append(worker)
            self._idle.put(worker)

    def __enter__(self) -> "WorkerPool[Item, Result]":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes, whatever they are doing."""
        for worker in self._all:
            worker.kill()
        self._threads.shutdown(cancel_futures=True)
        for worker in self._all:
            worker.close()

    def submit(self, item: Item) -> "Future[Result]":
        """Return the result to come of one item.

        It raises what the work raised, or `DataError` if the process died.
        """
        return self._threads.submit(self._run, item)

    def map(self, items: Iterable[Item]) -> Iterator[Result]:
        """Yield the result of each item in order, working ahead a little."""
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(self.submit(item))
            if len(waiting) >= _AHEAD * self.workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _run(self, item: Item) -> Result:
        worker = self._idle.get()
        try:
            result: Result = worker.answer(item)
        except (OSError, EOFError):
            raise DataError(
                f"A worker process ended ({worker.ending()}) while at work on {self._name(item)}. "
                "Expected it to finish; most often memory ran out. Use fewer workers "
                "(data.workers, --workers), or none: 1."
            ) from None
        finally:
            self._idle.put(worker)
        return result


class _Worker:
    """One process, as this process sees it."""

    def __init__(self, payload: bytes) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **_ONE_THREAD},
            start_new_session=True,  # Ctrl-C is for the process that the user sees
        )
        self._payload: bytes | None = payload

    def answer(self, item: Any) -> Any:
        """Return what the work makes of `item`, or raise what it raised."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self._payload is not None:
            _send(self._process.stdin, self._payload)
            self._payload = None
        _send(self._process.stdin, pickle.dumps(item, pickle.HIGHEST_PROTOCOL))
        result, error = pickle.loads(_receive(self._process.stdout))
        if error is not None:
            raise _raised(*error)
        return result

    def ending(self) -> str:
        """Say how the process ended."""
        code = self._process.wait()
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def kill(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Close the pipes of a process that has ended."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:  # what was still to be written has no reader
                    _log.debug("a worker's pipe was full")


def serve() -> None:
    """Answer items until the input ends: the body of a worker process."""
    items, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anything prints must not get between the answers
    logging.getLogger("danlu").setLevel(logging.ERROR)
    try:
        work = pickle.loads(_receive(items))
        while True:
            item = pickle.loads(_receive(items))
            _send(answers, _outcome(work, item))
    except (EOFError, BrokenPipeError):
        os._exit(0)  # whoever asked is gone


def _outcome(work: Callable[[Any], Any], item: Any) -> bytes:
    """Return the pickled pair (result, error) of one item."""
    try:
        return pickle.dumps((work(item), None), pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # it goes to the process that asked, and is raised there
        text = traceback.format_exc()
        known: Exception | None = error
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            known = None
        return pickle.dumps((None, (known, text)), pickle.HIGHEST_PROTOCOL)


def _raised(error: Exception | None, text: str) -> Exception:
    """Return what is raised here for an error in a worker, with where it came from."""
    if isinstance(error, DanluError):
        return error
    error = error or RuntimeError("an error that cannot leave its process")
    error.add_note(f"It was raised in a worker process:\n{text}")
    return error


def _send(pipe: IO[bytes], message: bytes) -> None:
    pipe.write(len(message).to_bytes(_LENGTH_BYTES, "little"))
    pipe.write(message)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes:
    """Return the next message; raise EOFError if there is none."""
    length = int.from_bytes(_whole(pipe, _LENGTH_BYTES), "little")
    return _whole(pipe, length)


def _whole(pipe: IO[bytes], size: int) -> bytes:
    data = pipe.read(size)
    if len(data) != size:
        raise EOFError
    return data
