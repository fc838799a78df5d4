"""`danlu generate` on many prompts: a list or a JSONL file in, answers (and a JSONL file) out."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.data.reading.problems import Problems, raise_problems
from danlu.data.reading.rows import read_rows
from danlu.engine.llm import LLM, Conversation, Generation
from danlu.engine.sampling import SamplingParams
from danlu.errors import DataError, OutputError
from danlu.files import write_text
from danlu.progress import Progress

EXPECTED = (
    'Expected each row to be a text, {"prompt": text} or {"messages": [{"role": ..., '
    '"content": ...}, ...]}. Fix or remove these rows.'
)

Prompt = str | Conversation


@dataclass(frozen=True)
class GenerateReport:
    """Answers to many prompts.

    Attributes:
        answers: in the order of the prompts; `n` answers to one prompt follow each other.
        seconds: from the first prompt to the last answer, without loading the model.
    """

    answers: list[Generation]
    seconds: float

    @property
    def num_tokens(self) -> int:
        """Tokens of all answers."""
        return sum(len(answer.token_ids) for answer in self.answers)

    def rows(self) -> list[tuple[str, str]]:
        """Return labels and values for a table."""
        speed = self.num_tokens / max(self.seconds, 1e-9)
        return [
            ("answers", f"{len(self.answers):,}"),
            ("tokens", f"{self.num_tokens:,} ({speed:,.0f} tokens/s)"),
        ]


def generate(
    llm: LLM,
    prompts: Sequence[Prompt] | Path,
    params: SamplingParams | None = None,
    out: Path | None = None,
    progress: Progress | None = None,
) -> GenerateReport:
    """Answer prompts together; the file `out` appears when all are answered, whole or not at all.

    Args:
        llm: the model.
        prompts: texts to continue and conversations to answer, or a JSONL file of them.
        params: for all prompts.
        out: a new JSONL file with one row per answer.
        progress: counts answers.

    Raises:
        DataError: if the file of prompts cannot be read; lists every bad row.
        OutputError: if `out` exists or cannot be written.
    """
    if out is not None and out.exists():
        raise OutputError(
            f"'{out}' exists; nothing was overwritten. Expected the name of a new file."
        )
    listed = read_prompts(prompts) if isinstance(prompts, Path) else list(prompts)
    start = time.perf_counter()
    answers = _answer(llm, listed, params or SamplingParams(), progress)
    report = GenerateReport([a for each in answers for a in each], time.perf_counter() - start)
    if out is not None:
        lines = [_line(p, a) for p, each in zip(listed, answers, strict=True) for a in each]
        write_text(out, "".join(line + "\n" for line in lines))
    return report


def read_prompts(path: Path) -> list[Prompt]:
    """Return the prompts of a JSONL file (or a JSON list) in order.

    Raises:
        DataError: listing every row that is none, or if there are no rows.
    """
    problems = Problems()
    prompts: list[Prompt] = []
    for origin, row in read_rows(path, problems):
        prompt = _prompt(row)
        if prompt is None:
            problems.append(f"{origin}: no prompt: {json.dumps(row, ensure_ascii=False)[:80]}")
        else:
            prompts.append(prompt)
    raise_problems(problems, path, EXPECTED)
    if not prompts:
        raise DataError(f"'{path}' has no rows. {EXPECTED}")
    return prompts


def _prompt(row: object) -> Prompt | None:
    """The prompt of a row, None if it is none."""
    if isinstance(row, str):
        return row
    if not isinstance(row, Mapping) or len(row.keys() & {"prompt", "messages"}) != 1:
        return None
    if isinstance(row.get("prompt"), str):
        return str(row["prompt"])
    messages = row.get("messages")
    return messages if isinstance(messages, list) and messages else None


def _answer(
    llm: LLM, prompts: Sequence[Prompt], params: SamplingParams, progress: Progress | None
) -> list[list[Generation]]:
    """The answers to each prompt: texts are continued, conversations answered."""
    texts = [(i, prompt) for i, prompt in enumerate(prompts) if isinstance(prompt, str)]
    talks = [(i, prompt) for i, prompt in enumerate(prompts) if not isinstance(prompt, str)]
    flat = llm.generate([text for _, text in texts], params, progress) if texts else []
    if talks:
        flat += llm.chat([talk for _, talk in talks], params, progress=progress)
    answers: list[list[Generation]] = [[] for _ in prompts]
    for position, (index, _) in enumerate([*texts, *talks]):
        answers[index] = flat[position * params.n : (position + 1) * params.n]
    return answers


def _line(prompt: Prompt, answer: Generation) -> str:
    values: dict[str, Any] = {"prompt": prompt} if isinstance(prompt, str) else {"messages": prompt}
    values |= {
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "index": answer.index,
        "prompt_tokens": len(answer.prompt_token_ids),
        "answer_tokens": len(answer.token_ids),
    }
    return json.dumps(values, ensure_ascii=False)
