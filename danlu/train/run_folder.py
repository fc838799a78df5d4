"""The output folder of a run: fresh, to be resumed, finished, or somebody else's.

run.json        the manifest: resolved config, versions, inputs with hashes, counts, results
ledger.json     rows kept, truncated or dropped
metrics.jsonl   one line per step; loss.png draws it
samples.jsonl   answers along the way; generated.jsonl has the newest that were judged
checkpoints/    the last few, and the best
model/ or adapter/   what the run was for; present as a whole or not at all
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from danlu.config.base import Config
from danlu.errors import DanluError, OutputError, bullet_list
from danlu.files import parse_json, write_json
from danlu.train.loop import METRICS, Outcome
from danlu.train.manifest import MANIFEST, versions
from danlu.train.metrics import peak_bytes, read_metrics
from danlu.train.plot import draw_loss

LEDGER, PLOT = "ledger.json", "loss.png"
_IGNORED_KEYS = frozenset({"out"})  # a run's folder may be moved
_IGNORED_DATA_KEYS = frozenset({"workers", "cache"})  # who prepares data, and where it is kept
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinalMetrics:
    """What a finished run measured; losses in nats per target token.

    `best` is the best evaluation (`danlu.train.evaluating.best`), where the run compares them.
    """

    steps: int
    loss: float
    held_out_loss: float | None
    held_out_perplexity: float | None
    tokens: int
    targets: int | float
    tokens_per_s: float
    elapsed_s: float
    peak_memory_bytes: int
    best: dict[str, Any] | None = None


@dataclass(frozen=True)
class RunResult:
    """What a run left behind.

    Attributes:
        folder: the run's folder.
        output: the model or adapter in it.
        final: what it measured.
        already_finished: nothing was done, because the same run had finished here before.
        resumed_from: step of the checkpoint it went on from, or None.
    """

    folder: Path
    output: Path
    final: FinalMetrics
    already_finished: bool = False
    resumed_from: int | None = None


class RunFolder:
    """The folder of one run, and its manifest.

    Args:
        path: the folder; the caller holds its lock (`danlu.files.only_run`).
        command: what runs, such as ``pretrain``.
        config: the resolved config.
        inputs: hashes of everything that is read; equal inputs give an equal run.
        output: name of what the run is for, ``model`` or ``adapter``.

    Raises:
        OutputError: if the folder holds something else, a run with another config, or a run of
            other data.
    """

    def __init__(
        self, path: Path, command: str, config: Config, inputs: Mapping[str, Any], output: str
    ) -> None:
        self.path = path
        self.output = path / output
        self._manifest: dict[str, Any] = {
            "command": command,
            "config": config.model_dump(mode="json"),
            "inputs": dict(inputs),
            "versions": versions(),
        }
        self._earlier = _read_manifest(path)
        if self._earlier is None:
            _refuse_foreign(path)
        else:
            self._refuse_different(self._earlier)

    def finished(self) -> RunResult | None:
        """Return the result of the same run, if it has finished here before."""
        earlier = self._earlier
        if earlier is None or earlier.get("status") != "finished" or not self.output.is_dir():
            return None
        final = FinalMetrics(**earlier["final"])
        return RunResult(self.path, self.output, final, already_finished=True)

    @contextmanager
    def recording(
        self, ledger: Mapping[str, Any] | Callable[[], Mapping[str, Any]], facts: Mapping[str, Any]
    ) -> Iterator[None]:
        """Write the manifest and the ledger, and how the block ended if it does not succeed.

        Args:
            ledger: what became of the rows; or a function that returns it, where it grows during
                the block. It is then written again at the end, however that comes.
            facts: more sections of the manifest.
        """
        started = (self._earlier or {}).get("started") or _now()
        self._manifest |= {**facts, "started": started, "status": "running"}
        self._write_ledger(ledger)
        self._write()
        try:
            yield
        except KeyboardInterrupt:
            self._stop("interrupted", "interrupted from the keyboard")
            raise
        except DanluError as error:
            self._stop("failed", str(error))
            raise
        finally:
            if callable(ledger):
                with suppress(OutputError):  # the error that ended the run matters more
                    self._write_ledger(ledger)

    def finish(self, outcome: Outcome) -> RunResult:
        """Note the end of the run, draw its curve and return its result."""
        records = read_metrics(self.path / METRICS)
        draw_loss(records, self.path / PLOT)
        final = _final_metrics(outcome, records)
        self._manifest |= {"status": "finished", "ended": _now(), "final": asdict(final)}
        self._write()
        return RunResult(self.path, self.output, final, resumed_from=outcome.resumed_from)

    def _stop(self, status: str, reason: str) -> None:
        self._manifest |= {"status": status, "ended": _now(), "error": reason}
        with suppress(OutputError):  # the error that ended the run matters more
            self._write()

    def _write_ledger(self, ledger: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> None:
        write_json(self.path / LEDGER, dict(ledger() if callable(ledger) else ledger))

    def _write(self) -> None:
        write_json(self.path / MANIFEST, self._manifest)

    def _refuse_different(self, earlier: Mapping[str, Any]) -> None:
        problems = _differences("", _without_ignored(earlier), _without_ignored(self._manifest))
        if problems:
            raise OutputError(
                f"'{self.path}' holds a different run:{bullet_list(problems)}\n"
                "Expected the same config and inputs, to go on with it. Nothing was changed. "
                "Choose another folder with out=..., or remove this one."
            )
        changed = _differences("", earlier.get("versions"), self._manifest["versions"])
        if changed:
            _log.warning(
                "'%s' was begun with other versions; the last bits may differ: %s",
                self.path,
                "; ".join(changed),
            )


def _read_manifest(path: Path) -> dict[str, Any] | None:
    file = path / MANIFEST
    if not file.exists():
        return None
    try:
        manifest = parse_json(file.read_text(encoding="utf-8"))
        return {**manifest, "config": dict(manifest["config"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"'{file}' is no manifest of a run ({error!r}). Nothing was changed. "
            "Choose another folder with out=..., or remove this one."
        ) from None


def _refuse_foreign(path: Path) -> None:
    """Refuse a folder with files that no run made; what a killed run began is hidden by a dot."""
    foreign = sorted(item.name for item in path.iterdir() if not item.name.startswith("."))
    known = {LEDGER}  # written just before the manifest
    if set(foreign) - known:
        raise OutputError(
            f"'{path}' is not empty and holds no run: {', '.join(foreign[:10])}. Expected a new or "
            "empty folder. Nothing was changed. Choose another folder with out=..."
        )


def _without_ignored(manifest: Mapping[str, Any]) -> dict[str, Any]:
    config = {key: v for key, v in manifest["config"].items() if key not in _IGNORED_KEYS}
    if isinstance(data := config.get("data"), dict):
        config["data"] = {key: v for key, v in data.items() if key not in _IGNORED_DATA_KEYS}
    return {
        "command": manifest.get("command"),
        "config": config,
        "inputs": manifest.get("inputs"),
    }


def _differences(prefix: str, before: Any, now: Any) -> list[str]:
    """Return one line for each value that differs between two JSON trees."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        lines = (
            _differences(f"{prefix}.{key}" if prefix else key, before.get(key), now.get(key))
            for key in keys
        )
        return [line for group in lines for line in group]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = enumerate(zip(before, now, strict=True))
        lines = (_differences(f"{prefix}[{i}]", old, new) for i, (old, new) in pairs)
        return [line for group in lines for line in group]
    return [] if before == now else [f"{prefix}: {before!r} there, {now!r} now"]


def _final_metrics(outcome: Outcome, records: list[dict[str, int | float]]) -> FinalMetrics:
    losses = [record["loss"] for record in records if "loss" in record]
    held_out = [r for r in records if "held_out_loss" in r]
    last = held_out[-1] if held_out else {}
    counters = outcome.counters
    return FinalMetrics(
        steps=counters.step,
        loss=losses[-1],
        held_out_loss=last.get("held_out_loss"),
        held_out_perplexity=last.get("held_out_perplexity"),
        tokens=counters.tokens,
        targets=counters.targets,
        tokens_per_s=round(counters.tokens / max(counters.elapsed_s, 1e-9), 1),
        elapsed_s=counters.elapsed_s,
        peak_memory_bytes=peak_bytes(),
        best=None if outcome.best is None else asdict(outcome.best),
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
