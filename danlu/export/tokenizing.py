"""The tokenizer of an exported folder: as tokenizer.json where it can be said, and read back."""

from pathlib import Path

from danlu.errors import ExportError, TokenizerError
from danlu.tokenizer import Tokenizer, load_tokenizer

SAMPLES = (
    "Hello, world! It's 12:30 on 2024-01-31.",
    "  two spaces, a\ttab\nand a new line\n\n",
    "\u4e39\u7089\uff1a\u4f60\u597d\uff0c\u4e16\u754c\u3002 3.14 \u4e2dEnglish\u6df7\u6392",
    "def f(x):\n    return {'a': x ** 2}  # \U0001f525\u00e9\u00fc",
    "",
)


def write_tokenizer(
    tokenizer: Tokenizer | None, folder: Path, family: str, notes: list[str]
) -> str:
    """Write the tokenizer with its chat template; return what was written, in words.

    Args:
        tokenizer: of the source; None: nothing is written.
        folder: where to.
        family: of the source.
        notes: gets what the user must know.

    Raises:
        ExportError: if the written tokenizer gives other ids than the source's.
    """
    if tokenizer is None:
        notes.append("there is no tokenizer in the folder; copy one there to use it with text")
        return "none"
    try:
        tokenizer.save_tokenizer_json(folder)
        kind, written = "tokenizer.json", load_tokenizer(folder)
    except TokenizerError as error:
        tokenizer.save(folder)
        kind = ", ".join(sorted(tokenizer.model.files()))
        written = load_tokenizer(folder, family)
        notes.append(f"the tokenizer is written in its own files: {error}")
    _check(tokenizer, written)
    if tokenizer.chat_format and not written.settings.templates():
        notes.append(
            f"the chat format {tokenizer.chat_format!r} cannot be said as a template; "
            "render chats with danlu, or name a template in the other tool"
        )
    template = "with a chat template" if written.settings.templates() else "no chat template"
    return f"{kind}, {written.vocab_size:,} tokens, {template}"


def _check(tokenizer: Tokenizer, written: Tokenizer) -> None:
    for text in SAMPLES:
        expected, found = tokenizer.encode(text), written.encode(text)
        if expected != found:
            raise ExportError(
                f"The written tokenizer encodes {text!r} as {found}; expected {expected}. "
                "Nothing was kept. Export with --no-tokenizer and copy the tokenizer's files."
            )
