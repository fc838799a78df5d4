"""Talk with a model that sees the conversation so far.

After `danlu tour`:

    python examples/chat_with_a_model.py danlu-tour/model

Each line of input is a message; an empty line or Ctrl-D ends. Input may also be piped in.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import danlu

Message = dict[str, str]


def chat(llm: danlu.LLM, lines: Iterable[str], params: danlu.SamplingParams) -> list[Message]:
    """Answer line after line, printing each answer while it grows; return the conversation."""
    messages: list[Message] = []
    for line in lines:
        if not line.strip():
            break
        messages.append({"role": "user", "content": line.strip()})
        pieces = []
        for piece in llm.stream(messages, params):
            print(piece, end="", flush=True)
            pieces.append(piece)
        print()
        messages.append({"role": "assistant", "content": "".join(pieces)})
    return messages


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description="Talk with a model.")
    parser.add_argument("model", type=Path, nargs="?", default=Path("danlu-tour/model"))
    parser.add_argument("--temperature", type=float, default=0.0, help="0: the likeliest answer")
    parser.add_argument("--max-tokens", type=int, default=128)
    options = parser.parse_args(arguments)
    params = danlu.SamplingParams(temperature=options.temperature, max_tokens=options.max_tokens)
    chat(danlu.LLM(options.model), sys.stdin, params)


if __name__ == "__main__":
    main()
