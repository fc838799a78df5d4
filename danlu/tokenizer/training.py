"""Train a byte-level BPE tokenizer.

Texts are cut into words as Qwen2 does it (digits one by one, runs of letters with at most one
sign in front), so that the result is also known to other tools; unlike Qwen2, text is not
normalised, so decoding gives back exactly what was encoded. Source: Qwen2's `tokenizer.json`; BPE
training by the `tokenizers` library, which is deterministic.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from danlu.errors import DataError, TokenizerError
from danlu.progress import Progress, Silent, working
from danlu.tokenizer.base import Tokenizer
from danlu.tokenizer.chat.formats import format_for
from danlu.tokenizer.kinds.tokenizer_json import TokenizerJson
from danlu.tokenizer.model import TokenizerFolder
from danlu.tokenizer.special import TokenizerSettings

logger = logging.getLogger(__name__)

END_OF_TEXT = "<|endoftext|>"
CONTROL_TOKENS = (END_OF_TEXT, "<|im_start|>", "<|im_end|>")  # ids 0, 1, 2
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEXTS_PER_BATCH = 256


def train_bpe(
    texts: Iterable[str],
    vocab_size: int,
    chat_format: str = "chatml",
    progress: Progress | None = None,
    max_token_bytes: int = 16,
    control: Sequence[str] = (),
) -> Tokenizer:
    """Train a tokenizer on `texts`; the same texts give the same tokenizer.

    `<|endoftext|>` (0) ends a text and pads, `<|im_start|>` (1) and `<|im_end|>` (2) frame chat
    turns, and every byte is a token, so nothing is ever unknown. A corpus with too few different
    words gives a smaller vocabulary than asked for; that is logged, and `vocab_size` tells.

    Args:
        texts: the corpus; read once.
        vocab_size: tokens wanted, control tokens and the 256 bytes included.
        chat_format: built-in chat format, or template file, saved with the tokenizer.
        progress: told how many characters were read.
        max_token_bytes: longest token; keeps whole phrases of a repetitive corpus, Chinese above
            all, from becoming single tokens.
        control: further control tokens, ids 3, 4, ...

    Raises:
        TokenizerError: if `vocab_size` is too small, or the format needs other control tokens.
        DataError: if there is no text.
    """
    controls = _all_controls(control)
    if vocab_size < 256 + len(controls):
        raise TokenizerError(
            f"vocab_size is {vocab_size}; expected at least {256 + len(controls)}: "
            f"256 bytes and {len(controls)} control tokens."
        )
    template = _template_of(chat_format)
    backend = _train(texts, vocab_size, max_token_bytes, controls, progress or Silent())
    settings = _settings(template, controls)
    folder = TokenizerFolder(Path("."), settings, None)
    tokenizer = Tokenizer(TokenizerJson(json.loads(backend.to_str()), folder), settings)
    tokenizer.stop_ids()  # raises if the format needs control tokens that are not there
    if tokenizer.vocab_size < vocab_size:
        logger.warning(
            "the corpus gave %d tokens, %d were asked for: it has too few different words",
            tokenizer.vocab_size,
            vocab_size,
        )
    return tokenizer


def _all_controls(further: Sequence[str]) -> list[str]:
    """Return every control token, the three that are always there first."""
    controls = [*CONTROL_TOKENS, *further]
    wrong = [text for text in controls if not text.strip() or controls.count(text) > 1]
    if wrong:
        raise TokenizerError(
            f"These control tokens are empty, or there already: {sorted(set(wrong))}. "
            f"Expected others than {', '.join(CONTROL_TOKENS)}, each once."
        )
    return controls


def _template_of(chat_format: str) -> str:
    template = format_for(chat_format).template
    if template is None:
        raise TokenizerError(
            f"The chat format {chat_format!r} has no Jinja template, so it cannot be saved with "
            "the tokenizer. Train with another, and pass this one as format= where it is needed."
        )
    return template


def _settings(template: str, controls: Sequence[str]) -> TokenizerSettings:
    return TokenizerSettings(
        config={
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_bos_token": False,
            "clean_up_tokenization_spaces": False,
        },
        named={"eos_token": END_OF_TEXT, "pad_token": END_OF_TEXT},
        additional=tuple(controls[1:]),
        template=template,
        origin="the trained tokenizer",
    )


def _train(
    texts: Iterable[str],
    vocab_size: int,
    max_token_bytes: int,
    controls: Sequence[str],
    progress: Progress,
) -> Backend:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(controls),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=max_token_bytes,
        show_progress=False,
    )
    corpus = _Corpus(texts, progress)
    with working(progress, "tokenizer", None):
        backend.train_from_iterator(iter(corpus), trainer=trainer)
    if not corpus.has_text:
        raise DataError(
            "There is no text to train a tokenizer on; expected at least one document that is not "
            "empty. Check the corpus path."
        )
    return backend


class _Corpus:
    """Texts in batches, counted while the trainer reads them."""

    def __init__(self, texts: Iterable[str], progress: Progress) -> None:
        self._texts = texts
        self._progress = progress
        self.has_text = False

    def __iter__(self) -> Iterator[list[str]]:
        batch: list[str] = []
        for text in self._texts:
            batch.append(text)
            if len(batch) == _TEXTS_PER_BATCH:
                yield self._count(batch)
                batch = []
        yield self._count(batch)

    def _count(self, batch: list[str]) -> list[str]:
        self.has_text = self.has_text or any(text.strip() for text in batch)
        self._progress.advance(sum(map(len, batch)), "characters read")
        return batch
