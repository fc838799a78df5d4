"""From the data section of a run to the rows it trains on: encoded, mixed, split, in a ledger."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from danlu.config.data import DataSource, FinetuneData, PretrainData, ReadingOptions
from danlu.config.train import TrainOptions
from danlu.data.conversations import read_conversations
from danlu.data.encoded.built_corpus import is_built_corpus, open_built_corpus
from danlu.data.encoded.cache import Reader, cache_folder, encoded_store
from danlu.data.encoded.encoding import ChatEncoder, Encoder, TextEncoder
from danlu.data.encoded.store import ArrayStore
from danlu.data.encoded.workers import available_cores
from danlu.data.ledger import Ledger
from danlu.data.mixing.mixture import Mixture, Share, shares_of
from danlu.data.mixing.passes import MixedPasses, Passes
from danlu.data.mixing.sides import Side, split_sides, whole_side
from danlu.data.mixing.streaming import StreamedPasses, StreamOptions
from danlu.data.packing import PackedRow
from danlu.data.sources import read_corpus
from danlu.errors import ConfigError
from danlu.progress import Progress
from danlu.tokenizer import Tokenizer
from danlu.tokenizer.chat.missing_marks import missing_marks
from danlu.train.source import BATCHINGS, Batching

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingRows:
    """Rows to train on and to evaluate on, and what became of the data.

    Attributes:
        max_seq_len: tokens of the longest row.
        passes: the rows of each pass over the data.
        ledger: what became of the training data; it grows while training if data is streamed.
        batching: how rows become batches.
        shares: how often each source is seen; empty where that only shows while training.
        held_out: rows that are only evaluated on.
        held_out_ledger: what became of the held-out data.
    """

    max_seq_len: int
    passes: Passes
    ledger: Ledger
    batching: Batching = BATCHINGS["packed"]
    shares: Sequence[Share] = ()
    held_out: Sequence[PackedRow] = ()
    held_out_ledger: Ledger = field(default_factory=Ledger)

    @property
    def is_streamed(self) -> bool:
        """Is the data read while training?"""
        return isinstance(self.passes, StreamedPasses)

    def ledgers(self) -> dict[str, Any]:
        """Return the ledger of the training data with that of the held-out data in it."""
        sources = {"sources": [share.as_json() for share in self.shares]} if self.shares else {}
        return {**self.ledger.summary(), **sources, "held_out": self.held_out_ledger.summary()}


@dataclass(frozen=True)
class Reading:
    """How the sources of a run are read and encoded.

    Attributes:
        read: yields the examples of a source.
        encoder: makes rows of them; called with `split_seed`, where a part is held out.
        batching: how rows become batches.
        max_dropped: as in the run file; None: any number.
        open_built: opens a source that is encoded already; None for another source.
    """

    read: Reader[Any]
    encoder: Callable[..., Encoder[Any]]
    batching: Batching
    max_dropped: int | None
    open_built: Callable[[DataSource], ArrayStore | None] = lambda source: None


def conversation_rows(
    data: FinetuneData, tokenizer: Tokenizer, train: TrainOptions, seed: int, progress: Progress
) -> TrainingRows:
    """Return the conversations of a fine-tuning run as rows.

    Raises:
        ConfigError: if data is streamed and `train.steps` is not given.
        DataError: if rows are malformed, more are dropped than `max_dropped`, or none is left.
        TokenizerError: if the tokenizer has no chat format.
    """
    missing = missing_marks(tokenizer, tokenizer.format_of(data.chat_format))
    if missing:
        _log.warning(
            "The chat template writes %s, which the tokenizer has no token for, so that it is "
            "learned as text; `danlu tokenizer extend` adds tokens.",
            ", ".join(missing),
        )
    encoder = chat_encoder(data, tokenizer)
    batching = BATCHINGS[data.batching]
    reading = Reading(read_conversations, encoder, batching, data.max_dropped)
    return training_rows(data, data.instructions, reading, train, seed, progress)


def chat_encoder(data: FinetuneData, tokenizer: Tokenizer) -> Callable[..., ChatEncoder]:
    """Return what makes the encoder of a fine-tuning run's conversations."""
    return partial(
        ChatEncoder,
        tokenizer,
        data.max_seq_len,
        data.chat_format,
        data.learn,
        data.long,
        data.max_prompt_tokens,
        data.template_options,
    )


def corpus_rows(
    data: PretrainData, tokenizer: Tokenizer, train: TrainOptions, seed: int, progress: Progress
) -> TrainingRows:
    """Return the text of a pre-training run as rows; longer documents are cut into pieces.

    Raises:
        ConfigError: if data is streamed and `train.steps` is not given.
        DataError: if texts are malformed, or a built corpus is of another tokenizer.
    """
    encoder = partial(TextEncoder, tokenizer)
    open_built = partial(_built, tokenizer=tokenizer)
    reading = Reading(_texts, encoder, BATCHINGS["packed"], None, open_built)
    return training_rows(data, data.corpus, reading, train, seed, progress)


def _texts(source: DataSource, dropped: list[str] | None) -> Any:
    return read_corpus(source)


def _built(source: DataSource, tokenizer: Tokenizer) -> ArrayStore | None:
    return open_built_corpus(source, tokenizer) if is_built_corpus(source) else None


def training_rows(
    data: ReadingOptions,
    sources: Sequence[DataSource],
    reading: Reading,
    train: TrainOptions,
    seed: int,
    progress: Progress,
) -> TrainingRows:
    """Return sources as rows, with what is held out.

    Raises:
        DanluError: what reading and encoding raise; see `conversation_rows` and `corpus_rows`.
    """
    prepare = partial(_prepared, data, reading, progress)
    if data.streaming:
        rows = _streamed(data, sources, reading, train, seed)
        return _evaluated(rows, whole_side(prepare(data.held_out or [], None)), seed)
    fraction = data.held_out_fraction
    stores = prepare(sources, seed if fraction else None)
    learned, held_out = split_sides(stores, fraction, seed)
    learned.ledger.check(reading.max_dropped)
    lengths = [learned.documents.lengths[numbers] for numbers in learned.numbers]
    named = [(source.path, source.weight) for source in sources]
    shares = shares_of(
        [(*name, each) for name, each in zip(named, lengths, strict=True)], data.temperature
    )
    mixture = Mixture(learned.numbers, [share.times for share in shares], seed)
    arrange = reading.batching.arrange
    passes = MixedPasses(learned.documents, mixture, arrange, data.max_seq_len, seed)
    rows = TrainingRows(data.max_seq_len, passes, learned.ledger, reading.batching, shares)
    if data.held_out is not None:
        held_out = whole_side(prepare(data.held_out, None))
    return _evaluated(rows, held_out, seed)


def _prepared(
    data: ReadingOptions,
    reading: Reading,
    progress: Progress,
    sources: Sequence[DataSource],
    split_seed: int | None,
) -> list[ArrayStore]:
    """Return the stores of the sources, from the cache where they are there."""
    encoder = reading.encoder(split_seed=split_seed)
    return [
        reading.open_built(source)
        or encoded_store(
            source,
            reading.read,
            encoder,
            cache_folder(data.cache),
            tolerant=bool(reading.max_dropped),
            workers=data.workers,
            progress=progress,
        )
        for source in sources
    ]


def _evaluated(rows: TrainingRows, held_out: Side, seed: int) -> TrainingRows:
    """Return the rows with those that are only evaluated on."""
    numbers = held_out.all_numbers
    evaluated = rows.batching.arrange(held_out.documents, numbers, rows.max_seq_len, seed)
    return replace(rows, held_out=evaluated, held_out_ledger=held_out.ledger)


def _streamed(
    data: ReadingOptions,
    sources: Sequence[DataSource],
    reading: Reading,
    train: TrainOptions,
    seed: int,
) -> TrainingRows:
    built = [source.path for source in sources if reading.open_built(source) is not None]
    if train.steps is None or built:
        raise ConfigError(
            f"data.streaming cannot read {', '.join(built)}, which is built already and never in "
            "memory as a whole; set data.streaming to false."
            if built
            else "data.streaming needs train.steps, as nobody knows how long an epoch is; found "
            f"train.epochs {train.epochs}. Give train.steps instead."
        )
    workers = max(1, available_cores() - 1) if data.workers is None else data.workers - 1
    options = StreamOptions(
        reading.batching.arrange,
        data.max_seq_len,
        data.shuffle_buffer,
        seed,
        reading.max_dropped,
        workers,
    )
    ledger = Ledger()
    passes = StreamedPasses(sources, reading.read, reading.encoder(), options, ledger)
    return TrainingRows(data.max_seq_len, passes, ledger, reading.batching)
