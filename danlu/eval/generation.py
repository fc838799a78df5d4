"""What a model in training writes: answers to held-out conversations, judged, and to own prompts.

Both are evaluations of a training run (`danlu.train.evaluating.evaluation`). They go through the
engine that serves the model later, and decode greedily, so equal weights write equal answers.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from danlu.config.evaluation import EvaluationConfig, TextMetric
from danlu.data.examples import ASSISTANT, Conversation, Message, Tool
from danlu.engine.llm import LLM
from danlu.engine.sampling import SamplingParams
from danlu.errors import DataError
from danlu.eval.text_metrics import text_scores
from danlu.files import write_text
from danlu.models.decoder import Decoder
from danlu.tokenizer import Tokenizer
from danlu.train.evaluating.evaluation import Evaluated, Evaluation

GENERATED = "generated.jsonl"


@dataclass(frozen=True)
class Question:
    """What a model is asked in an evaluation, and what it should answer."""

    messages: list[Message]
    reference: str
    origin: str = ""
    tools: list[Tool] | None = None


def text_evaluations(
    config: EvaluationConfig,
    decoder: Decoder,
    tokenizer: Tokenizer,
    conversations: Sequence[Conversation],
    folder: Path,
) -> list[Evaluation]:
    """Return the evaluations that a config asks for.

    Args:
        config: which, and how often.
        decoder: the model to be trained, with its adapter; tells how long a prompt may be.
        tokenizer: with the chat format of the run.
        conversations: held-out ones; those whose last answer has no text are left out.
        folder: of the run; each evaluation leaves its answers there, in `generated.jsonl`.

    Raises:
        DataError: if answers are to be judged and no conversation has one.
        RequestError: if a question is too long for the model.
    """
    llm = LLM.from_parts(decoder, tokenizer)
    found: list[Evaluation] = []
    if config.metrics:
        questions = _questions(conversations)[: config.rows]
        fitted = [_fitted(llm, question, config) for question in questions]
        found.append(JudgedAnswers(config, tokenizer, fitted, folder / GENERATED))
    if config.samples:
        own = [Question([{"role": "user", "content": text}], "") for text in config.samples]
        samples = [_fitted(llm, question, config) for question in own]
        found.append(SampleAnswers(config, tokenizer, samples))
    return found


class JudgedAnswers:
    """Answers to held-out questions, compared with the expected ones.

    Args:
        config: how they are written and judged.
        tokenizer: with the chat format of the run.
        questions: at least one.
        file: where the answers of the newest evaluation are, a line each with its scores.
    """

    def __init__(
        self, config: EvaluationConfig, tokenizer: Tokenizer, questions: list[Question], file: Path
    ) -> None:
        self.every_steps = config.every_steps
        self.names: Sequence[TextMetric] = config.metrics
        self._config, self._tokenizer = config, tokenizer
        self._questions, self._file = questions, file

    def evaluate(self, decoder: Decoder, step: int) -> Evaluated:
        """Return the mean of each metric; write every answer.

        Raises:
            OutputError: if they cannot be written.
        """
        answers = _answers(decoder, self._tokenizer, self._questions, self._config)
        rows = [
            {"step": step, **_row(question, answer), **scores}
            for question, answer, scores in self._scored(answers)
        ]
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_text(self._file, "".join(lines))
        return Evaluated({n: sum(row[n] for row in rows) / len(rows) for n in self.names})

    def _scored(
        self, answers: Sequence[str]
    ) -> list[tuple[Question, str, dict[TextMetric, float]]]:
        pairs = zip(self._questions, answers, strict=True)
        return [(q, text, text_scores(text, q.reference, self.names)) for q, text in pairs]


class SampleAnswers:
    """Answers to the user's own prompts, for reading.

    Args:
        config: how they are written.
        tokenizer: with the chat format of the run.
        questions: the prompts.
    """

    names: Sequence[str] = ()

    def __init__(
        self, config: EvaluationConfig, tokenizer: Tokenizer, questions: list[Question]
    ) -> None:
        self.every_steps = config.every_steps
        self._config, self._tokenizer, self._questions = config, tokenizer, questions

    def evaluate(self, decoder: Decoder, step: int) -> Evaluated:
        """Return no numbers, but prompts and answers."""
        answers = _answers(decoder, self._tokenizer, self._questions, self._config)
        prompts = [question.messages[-1]["content"] for question in self._questions]
        rows = zip(prompts, answers, strict=True)
        return Evaluated(samples=[{"prompt": prompt, "answer": text} for prompt, text in rows])


def _questions(conversations: Sequence[Conversation]) -> list[Question]:
    """Return what comes before the last answer of each conversation, and that answer.

    Raises:
        DataError: if none has an answer of text.
    """
    found = [
        Question(c.messages[:-1], c.messages[-1]["content"], c.origin, c.tools)
        for c in conversations
        if len(c.messages) > 1
        and c.messages[-1]["role"] == ASSISTANT
        and (c.messages[-1].get("content") or "").strip()
    ]
    if not found:
        raise DataError(
            f"evaluation.metrics needs held-out conversations that end with an answer; none of "
            f"{len(conversations)} does. Give data.held_out such rows, or set evaluation.metrics "
            "to an empty list."
        )
    return found


def _fitted(llm: LLM, question: Question, config: EvaluationConfig) -> Question:
    """Return the question without the oldest rounds that the model has no room for."""
    params = SamplingParams(max_tokens=config.max_new_tokens)
    fitted = llm.fit_history(question.messages, params, question.tools)
    return Question(
        [dict(m) for m in fitted.messages], question.reference, question.origin, question.tools
    )


def _answers(
    decoder: Decoder, tokenizer: Tokenizer, questions: Sequence[Question], config: EvaluationConfig
) -> list[str]:
    """Return the greedy answers, written in batches of questions with the same tools."""
    llm = LLM.from_parts(decoder, tokenizer)
    params = SamplingParams(temperature=0.0, max_tokens=config.max_new_tokens)
    texts: list[str] = []
    for tools, group in groupby(questions, key=_tools):
        alike = [question.messages for question in group]
        for start in range(0, len(alike), config.batch_size):
            batch = alike[start : start + config.batch_size]
            texts += [answer.text for answer in llm.chat(batch, params, tools)]
    return texts


def _tools(question: Question) -> list[Tool] | None:
    return question.tools


def _row(question: Question, answer: str) -> dict[str, Any]:
    return {
        "origin": question.origin,
        "prompt": question.messages,
        "reference": question.reference,
        "answer": answer,
    }
