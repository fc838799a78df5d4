"""`danlu eval`: how often a model is exactly right, how well it predicts text, how fast it is."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from danlu.commands.compare import weight_bytes
from danlu.commands.speed import served_speed
from danlu.config.quantize.scheme import PresetName, QuantScheme
from danlu.data.conversations import read_conversations
from danlu.data.examples import Conversation
from danlu.data.sources import read_corpus
from danlu.engine.llm import LLM
from danlu.engine.placement import choose_device
from danlu.errors import ConfigError
from danlu.eval.exact_match import ExactMatch, Tally, exact_match
from danlu.eval.perplexity import PerplexityResult, perplexity
from danlu.eval.speed import Speed
from danlu.files import write_json
from danlu.progress import Progress


@dataclass(frozen=True)
class EvalReport:
    """What was measured of one model; None is what was not asked for.

    Attributes:
        model: its folder.
        adapter: folder of the adapter that was attached, if any.
        quantize: how it was quantized while loading, if it was.
        dtype: the scores were computed in.
        weight_bytes: size of its weight files, and of the adapter's.
        answers: exact matches on instructions.
        text: perplexity on documents.
        speed: of one sequence in bfloat16, on this machine.
    """

    model: str
    adapter: str | None
    quantize: str | None
    dtype: str
    weight_bytes: int
    answers: ExactMatch | None
    text: PerplexityResult | None
    speed: Speed | None

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON, one level for what there is one of.

        Exact matches give correct, total, accuracy, stderr, by_kind and samples; text gives
        perplexity (None where it is infinite), nll_sum, num_tokens, num_documents; then speed.
        """
        values = {
            "model": self.model,
            "adapter": self.adapter,
            "quantize": self.quantize,
            "dtype": self.dtype,
            "weight_bytes": self.weight_bytes,
        }
        speed = {} if self.speed is None else {"speed": asdict(self.speed)}
        return {**values, **_answer_values(self.answers), **_text_values(self.text), **speed}

    def rows(self) -> list[tuple[str, str]]:
        """Return labels and values for a table."""
        rows = [("weights", f"{self.weight_bytes / 1e6:,.1f} MB")]
        return [
            *rows,
            *_answer_rows(self.answers),
            *_text_rows(self.text),
            *_speed_rows(self.speed),
        ]


def evaluate(
    model: str | Path,
    instructions: str | Path | None = None,
    text: str | Path | None = None,
    adapter: str | Path | None = None,
    quantize: PresetName | QuantScheme | None = None,
    dtype: str | torch.dtype = "auto",
    *,
    device: str | torch.device = "auto",
    family: str | None = None,
    with_speed: bool = False,
    limit: int | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> EvalReport:
    """Measure a model on instructions, on text, or on both.

    Args:
        model: its folder.
        instructions: conversations; the last answer of each is the right one, and the model's,
            drawn greedily, must be equal to it.
        text: a corpus for perplexity.
        adapter: folder of an adapter to attach.
        quantize: quantize while loading.
        dtype: to compute the scores in, as in `LLM`.
        device: as in `LLM`.
        family: as in `LLM`.
        with_speed: also measure prefill and decode, in bfloat16.
        limit: most instructions, and most documents, to use; the first ones are.
        out: where to write the report as JSON.
        progress: of the work.

    Raises:
        ConfigError: if there is nothing to measure on.
        DataError: if instructions or text cannot be read.
        CheckpointError: if the model cannot be opened.
        OutputError: if the report cannot be written.
    """
    if instructions is None and text is None:
        raise ConfigError(
            "There is nothing to evaluate on; expected a file of instructions, a text, or both."
        )
    conversations = list(islice(read_conversations(instructions), limit)) if instructions else None
    documents = [d.text for d in islice(read_corpus(text), limit)] if text else None
    place = choose_device(device)
    speed = served_speed(model, adapter, quantize, place, family) if with_speed else None
    llm = LLM(model, dtype, place, adapter, quantize, family)
    report = EvalReport(
        model=str(model),
        adapter=None if adapter is None else str(adapter),
        quantize=None if quantize is None else str(quantize),
        dtype=str(llm.decoder.dtype).removeprefix("torch."),
        weight_bytes=sum(weight_bytes(Path(folder)) for folder in (model, adapter) if folder),
        answers=_answers(llm, conversations, progress),
        text=_text(llm, documents, progress),
        speed=speed,
    )
    if out is not None:
        write_json(Path(out), report.as_dict())
    return report


def _answers(
    llm: LLM, conversations: Sequence[Conversation] | None, progress: Progress | None
) -> ExactMatch | None:
    return None if conversations is None else exact_match(llm, conversations, progress=progress)


def _text(
    llm: LLM, documents: Sequence[str] | None, progress: Progress | None
) -> PerplexityResult | None:
    if documents is None:
        return None
    return perplexity(llm.decoder, llm.tokenizer, documents, progress=progress)


def _answer_values(answers: ExactMatch | None) -> dict[str, Any]:
    if answers is None:
        return {}
    by_kind = {kind: _tally_values(tally) for kind, tally in answers.by_kind.items()}
    samples = [asdict(sample) for sample in answers.samples]
    return {**_tally_values(answers), "by_kind": by_kind, "samples": samples}


def _tally_values(tally: Tally) -> dict[str, float]:
    return {
        "correct": tally.correct,
        "total": tally.total,
        "accuracy": tally.accuracy,
        "stderr": tally.stderr,
    }


def _text_values(text: PerplexityResult | None) -> dict[str, Any]:
    if text is None:
        return {}
    return {
        "perplexity": text.perplexity if math.isfinite(text.perplexity) else None,
        "nll_sum": text.nll_sum,
        "num_tokens": text.num_tokens,
        "num_documents": len(text.documents),
    }


def _answer_rows(answers: ExactMatch | None) -> list[tuple[str, str]]:
    if answers is None:
        return []
    tallies = {"exactly right": answers, **{f"  {k}": t for k, t in answers.by_kind.items()}}
    return [
        (label, f"{t.accuracy:.1%} +- {t.stderr:.1%} ({t.correct} of {t.total})")
        for label, t in tallies.items()
    ]


def _text_rows(text: PerplexityResult | None) -> list[tuple[str, str]]:
    if text is None:
        return []
    scored = f"{text.num_tokens:,} tokens of {len(text.documents):,} documents"
    return [("perplexity", f"{text.perplexity:.4f} ({scored})")]


def _speed_rows(speed: Speed | None) -> list[tuple[str, str]]:
    if speed is None:
        return []
    return [
        ("prefill", f"{speed.prefill_tokens_per_s:,.0f} tokens/s"),
        ("decode", f"{speed.decode_tokens_per_s:,.0f} tokens/s"),
    ]
