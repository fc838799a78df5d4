"""`danlu generate`: continue a text or answer a message as it comes, or many from a file."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from danlu.cli import flags
from danlu.cli.flags import SAMPLING
from danlu.cli.progress import shown_progress
from danlu.cli.terminal import print_rows, results
from danlu.engine.sampling import SamplingParams
from danlu.errors import RequestError

if TYPE_CHECKING:
    from danlu.engine.llm import LLM


def command(
    model: flags.Model,
    prompt: Annotated[
        str | None, typer.Option(help="The text to continue; - reads it from stdin.")
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Answer the prompt through the chat template.")
    ] = False,
    prompts: Annotated[
        Path | None, typer.Option(help="Instead of --prompt: a JSONL file of prompts or messages.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="With --prompts: a new JSONL file for the answers.")
    ] = None,
    max_tokens: flags.MaxTokens = SAMPLING.max_tokens,
    temperature: flags.Temperature = SAMPLING.temperature,
    top_k: flags.TopK = SAMPLING.top_k,
    top_p: flags.TopP = SAMPLING.top_p,
    min_p: flags.MinP = SAMPLING.min_p,
    repetition_penalty: flags.RepetitionPenalty = SAMPLING.repetition_penalty,
    seed: flags.Seed = SAMPLING.seed,
    stop: flags.Stop = None,
    adapter: flags.Adapter = None,
    quantize: flags.Quantize = None,
    kv_cache: flags.KvCache = None,
    compiled: flags.Compiled = False,
    dtype: flags.Dtype = "auto",
    device: flags.Device = "auto",
    family: flags.Family = None,
    chat_format: flags.ChatFormat = None,
) -> None:
    """Continue a text, streaming the answer to stdout; or answer a file of prompts.

    [bold]Examples[/bold]

    - danlu generate danlu-tour/model --prompt "Once upon a time"

    - danlu generate danlu-tour/model --chat --prompt "Who has the ball?" --temperature 0

    - cat story.txt | danlu generate MODEL --prompt - --max-tokens 200 --seed 7

    - danlu generate MODEL --prompts questions.jsonl --out answers.jsonl
    """
    _check(prompt, prompts, out, chat=chat)
    params = SamplingParams(
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        stop=tuple(stop or ()),
    )
    from danlu.engine.llm import LLM

    llm = LLM(model, dtype, device, adapter, quantize, family, chat_format, kv_cache, compiled)
    if prompt is None:
        assert prompts is not None
        assert out is not None
        _answer_file(llm, prompts, out, params)
    else:
        text = sys.stdin.read() if prompt == "-" else prompt
        _stream(llm, text, params, chat=chat)


def _check(prompt: str | None, prompts: Path | None, out: Path | None, *, chat: bool) -> None:
    """Refuse flags that do not belong together."""
    if (prompt is None) == (prompts is None):
        found = "neither" if prompt is None else "both"
        raise RequestError(
            f"Expected either --prompt TEXT or --prompts FILE --out FILE; found {found}."
        )
    if (prompts is None) != (out is None):
        raise RequestError("--prompts FILE and --out FILE belong together; give both.")
    if prompts is not None and chat:
        raise RequestError(
            "--chat is for --prompt. In a file, rows with 'messages' are answered as a chat."
        )


def _stream(llm: "LLM", text: str, params: SamplingParams, *, chat: bool) -> None:
    asked = [{"role": "user", "content": text}] if chat else text
    for piece in llm.stream(asked, params):
        results().out(piece, end="", highlight=False)
        results().file.flush()
    results().print()


def _answer_file(llm: "LLM", prompts: Path, out: Path, params: SamplingParams) -> None:
    from danlu.commands.generate import generate

    with shown_progress() as progress:
        report = generate(llm, prompts, params, out, progress)
    print_rows(report.rows(), title=f"Answered into {out}")
