"""`danlu chat`: talk with a model in the terminal."""

import importlib
import sys
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from typing import Annotated

import typer

from danlu.cli import flags
from danlu.cli.chat_session import ChatSession
from danlu.cli.flags import SAMPLING
from danlu.cli.terminal import is_interactive, remarks, results
from danlu.engine.sampling import SamplingParams

PROMPT = "you> "


def command(
    model: flags.Model,
    system: Annotated[str | None, typer.Option(help="A system text to begin with.")] = None,
    max_tokens: flags.MaxTokens = SAMPLING.max_tokens,
    temperature: flags.Temperature = SAMPLING.temperature,
    top_k: flags.TopK = SAMPLING.top_k,
    top_p: flags.TopP = SAMPLING.top_p,
    min_p: flags.MinP = SAMPLING.min_p,
    repetition_penalty: flags.RepetitionPenalty = SAMPLING.repetition_penalty,
    seed: flags.Seed = SAMPLING.seed,
    adapter: flags.Adapter = None,
    quantize: flags.Quantize = None,
    kv_cache: flags.KvCache = None,
    compiled: flags.Compiled = False,
    dtype: flags.Dtype = "auto",
    device: flags.Device = "auto",
    family: flags.Family = None,
    chat_format: flags.ChatFormat = None,
) -> None:
    """Chat with a model. /help inside lists what you can do; Ctrl-D leaves.

    [bold]Examples[/bold]

    - danlu chat danlu-tour/model

    - danlu chat MODEL --system "Answer in one word." --temperature 0

    - danlu chat danlu-tour/pretrain/model --adapter danlu-tour/finetune/adapter
    """
    params = SamplingParams(
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
    )
    from danlu.engine.llm import LLM

    llm = LLM(model, dtype, device, adapter, quantize, family, chat_format, kv_cache, compiled)
    converse(ChatSession(llm, params, system))


def converse(session: ChatSession) -> None:
    """Run the conversation on the terminal until /exit or the end of input."""
    with suppress(ImportError):  # arrow keys and earlier lines, where Python has them
        importlib.import_module("readline")
    remarks().print("[dim]/help lists the commands; Ctrl-D leaves.[/]")
    for line in _lines(session):
        _show(session.handle(line))
    remarks().print()


def _lines(session: ChatSession) -> Iterator[str]:
    while not session.is_over:
        try:
            yield input(PROMPT if is_interactive() else "")
        except EOFError:
            return
        except KeyboardInterrupt:
            remarks().print("\n[dim]Ctrl-D or /exit leaves.[/]")


def _show(pieces: Generator[str]) -> None:
    """Print the pieces as they come; Ctrl-C ends them."""
    with closing(pieces):
        try:
            for piece in pieces:
                results().out(piece, end="", highlight=False)
                sys.stdout.flush()
        except KeyboardInterrupt:
            results().print(" \\[stopped]")
