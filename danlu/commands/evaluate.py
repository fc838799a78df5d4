"""`danlu eval`: how often a model answers exactly right, how well it predicts text, how fast it is."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from danlu.commands.compare import weight_bytes
from danlu.config.quantize import QuantScheme
from danlu.data.sources import read_conversations, read_corpus
from danlu.engine.llm import LLM
from danlu.errors import ConfigError
from danlu.eval.exact_match import ExactMatch, exact_match
from danlu.eval.perplexity import PerplexityResult, perplexity
from danlu.eval.speed import Speed, measure_speed
from danlu.loading import load_decoder
from danlu.progress import Progress, Silent


@dataclass(frozen=True)
class EvaluateReport:
    """What a model scored; None is what was not asked for.

    Attributes:
        model: its folder.
        weight_bytes: size of its weight files, and of the adapter's.
        answers: exact matches on instructions.
        text: perplexity on documents.
        speed: of one sequence in bfloat16, on this machine.
    """

    model: str
    weight_bytes: int
    answers: ExactMatch | None
    text: PerplexityResult | None
    speed: Speed | None

    def rows(self) -> list[tuple[str, str]]:
        """Return labels and values for a table."""
        rows = [("weights", f"{self.weight_bytes / 1e6:,.1f} MB")]
        if self.answers is not None:
            tally = self.answers
            share = f"{tally.accuracy:.1%} +- {tally.stderr:.1%} ({tally.correct} of {tally.total})"
            rows.append(("exactly right", share))
            rows += [
                (f"  {kind}", f"{part.accuracy:.1%} ({part.correct} of {part.total})")
                for kind, part in tally.by_kind.items()
            ]
        if self.text is not None:
            rows.append(
                ("perplexity", f"{self.text.perplexity:.4f} over {self.text.num_tokens:,} tokens")
            )
        if self.speed is not None:
            rows.append(("decode", f"{self.speed.decode_tokens_per_s:,.0f} tokens/s"))
            rows.append(("prefill", f"{self.speed.prefill_tokens_per_s:,.0f} tokens/s"))
        return rows

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values; the answers are listed under `samples`."""
        result: dict[str, Any] = {"model": self.model, "weight_bytes": self.weight_bytes}
        if self.answers is not None:
            result |= {**asdict(self.answers), "accuracy": self.answers.accuracy}
        if self.text is not None:
            result |= {"perplexity": self.text.perplexity, "num_tokens": self.text.num_tokens}
        return result | ({"speed": asdict(self.speed)} if self.speed is not None else {})


def evaluate(
    model: str | Path,
    instructions: Path | None = None,
    text: Path | None = None,
    adapter: str | Path | None = None,
    quantize: Literal["int8", "int4"] | QuantScheme | None = None,
    dtype: str = "auto",
    with_speed: bool = False,
    progress: Progress | None = None,
) -> EvaluateReport:
    """Return what a model scores on instructions, on text, or both.

    Args:
        model: its folder.
        instructions: conversations; the last answer of each is the right one, and the model's,
            drawn greedily, must be equal to it.
        text: a corpus for perplexity.
        adapter: folder of an adapter to attach.
        quantize: quantize while loading.
        dtype: to compute the scores in.
        with_speed: also measure prefill and decode, in bfloat16.
        progress: of the work.

    Raises:
        ConfigError: if nothing is asked for.
        DataError: if instructions or text cannot be read.
        CheckpointError: if the model cannot be opened.
    """
    if instructions is None and text is None:
        raise ConfigError(
            "There is nothing to evaluate on; expected --instructions FILE, --text FILE or both."
        )
    work = progress or Silent()
    conversations = read_conversations(instructions) if instructions else None
    documents = [document.text for document in read_corpus(text)] if text else None
    llm = LLM(model, dtype=dtype, adapter=adapter, quantize=quantize)
    answers = exact_match(llm, conversations, progress=work) if conversations else None
    scored = perplexity(llm.decoder, llm.tokenizer, documents, progress=work) if documents else None
    speed = None
    if with_speed:
        speed = measure_speed(load_decoder(model, torch.bfloat16, adapter=adapter, quantize=quantize))
    folders = [Path(folder) for folder in (model, adapter) if folder is not None]
    return EvaluateReport(str(model), _total_bytes(folders), answers, scored, speed)


def _total_bytes(folders: Sequence[Path]) -> int:
    return sum(weight_bytes(folder) for folder in folders)
