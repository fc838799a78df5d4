"""`danlu tokenizer extend`: words and control tokens added to a tokenizer, and to its model.

New rows start where the model already is: a word's at the mean of the rows of the pieces it had, in
embedding and head alike; a control token's, which has no meaning yet, at the mean of all ordinary
rows, so that it takes no probability from others (the idea is John Hewitt's, "Initializing new word
embeddings for pretrained language models", 2021).
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from danlu.commands.manifest import write_manifest
from danlu.commands.vocabulary_rows import Checkpoint, NewRows, RowCounts, holds_model
from danlu.data.reading.opening import read_lines
from danlu.data.reading.problems import Problems, raise_problems
from danlu.data.sources import read_corpus
from danlu.errors import CheckpointError, ConfigError, DataError
from danlu.files import atomic_folder, refuse_existing
from danlu.hub import resolve
from danlu.loading import load_tokenizer
from danlu.progress import Progress, Silent, working
from danlu.tokenizer import Tokenizer
from danlu.tokenizer.extending import extend
from danlu.tokenizer.new_words import costly_words
from danlu.tokenizer.stamp import check_stamp, write_stamp

logger = logging.getLogger(__name__)

_SHOWN = 8
_BATCH = 256


@dataclass(frozen=True)
class Averages:
    """Tokens per text, by the tokenizer as it was and as it is."""

    before: float
    after: float

    def text(self) -> str:
        """Return both as text."""
        return f"{self.before:,.2f} -> {self.after:,.2f}"


@dataclass(frozen=True)
class ExtendReport:
    """A tokenizer (and its model) with more tokens.

    Attributes:
        out: the new folder.
        words: added, with their ids; those learned from the corpus come last.
        control: control tokens added, with their ids.
        num_learned: how many of the words were learned.
        num_tokens_before: highest id + 1 that the tokenizer had.
        num_tokens_after: and has.
        model_rows: of the model's embedding; None for a tokenizer alone.
        tokens_per_word: what the added words cost.
        tokens_per_document: what the documents of the corpus cost; None without one.
        fingerprint: of the new tokenizer.
    """

    out: str
    words: dict[str, int]
    control: dict[str, int]
    num_learned: int
    num_tokens_before: int
    num_tokens_after: int
    model_rows: RowCounts | None
    tokens_per_word: Averages | None
    tokens_per_document: Averages | None
    fingerprint: str

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self)

    def rows(self) -> list[tuple[str, str]]:
        """Return labels and values to print."""
        tokens = f"{self.num_tokens_before:,} -> {self.num_tokens_after:,}"
        return [
            *_listed("words", self.words, f", {self.num_learned:,} of them learned"),
            *_listed("control tokens", self.control),
            ("tokens", tokens),
            *self._rows_of_model(),
            *_compared("tokens per new word", self.tokens_per_word),
            *_compared("tokens per document", self.tokens_per_document),
            ("fingerprint", self.fingerprint[:16]),
        ]

    def _rows_of_model(self) -> Iterator[tuple[str, str]]:
        if self.model_rows is None:
            return
        if self.model_rows.after == self.model_rows.before:
            yield "rows of the model", f"{self.model_rows.before:,}: spare ones were enough"
        else:
            yield "rows of the model", f"{self.model_rows.before:,} -> {self.model_rows.after:,}"
        yield (
            "head",
            "tied to the embedding" if self.model_rows.is_tied else "its own rows, as many",
        )
        if self.words:
            yield "words start as", "the mean of the rows of their old tokens"
        if self.control:
            yield "control tokens start as", "the mean of all ordinary rows"


def _listed(label: str, tokens: dict[str, int], remark: str = "") -> Iterator[tuple[str, str]]:
    if tokens:
        shown = ", ".join(list(tokens)[:_SHOWN]) + (", ..." if len(tokens) > _SHOWN else "")
        yield label, f"{len(tokens):,}{remark}: {shown}"


def _compared(label: str, averages: Averages | None) -> Iterator[tuple[str, str]]:
    if averages:
        yield label, averages.text()


@dataclass(frozen=True)
class NewTokens:
    """What shall be added.

    Attributes:
        words: given one by one.
        word_files: files with a word per line.
        control: control tokens.
        corpus: texts to learn words from, and to count tokens on.
        num_learned: how many words to learn.
    """

    words: Sequence[str] = ()
    word_files: Sequence[Path] = ()
    control: Sequence[str] = ()
    corpus: Sequence[Path] = ()
    num_learned: int = 0

    def texts(self) -> Iterator[str]:
        """Yield the texts of the corpus, read anew."""
        for path in self.corpus:
            yield from (document.text for document in read_corpus(path))


def extend_vocabulary(
    model: str | Path,
    out: str | Path,
    new: NewTokens,
    pad_to: int = 1,
    family: str | None = None,
    progress: Progress | None = None,
) -> ExtendReport:
    """Write the tokenizer, and the model that lies with it, with more tokens to a new folder.

    Args:
        model: folder (or id) of a model with its tokenizer, or of a tokenizer alone. Tokens that
            were added to it without rows get rows too.
        out: the new folder; it is complete or absent.
        new: what to add.
        pad_to: make the number of rows a multiple of it.
        family: of the model, where the folder does not tell it.
        progress: of the work.

    Raises:
        ConfigError: if there is nothing to add, or numbers make no sense.
        CheckpointError: if the weights do not fit the config or the tokenizer.
        DataError: if a file is missing, empty or not UTF-8, or the corpus has no word to learn.
        OutputError: if `out` exists or cannot be written.
        QuantizationError: if the model is quantized.
        TokenizerError: naming every token that cannot be added.
    """
    _check_options(new, pad_to)
    refuse_existing(Path(out))
    folder, report = resolve(model), progress or Silent()
    old = load_tokenizer(folder, family)
    checkpoint = Checkpoint(folder, family) if holds_model(folder) else None
    num_old = _rows_of_tokens(checkpoint, old) if checkpoint else old.vocab_size
    with working(report, "extend", 2):
        change = _change(old, new)
        report.advance(1, "tokens added")
        with atomic_folder(Path(out)) as temporary:
            change.tokenizer.save(temporary)
            rows = None
            if checkpoint:
                rows = checkpoint.write(temporary, change.new_rows(num_old), pad_to)
                told = checkpoint.told_family(rows.after)
                write_stamp(temporary, change.tokenizer, family=told)
            result = _report(str(out), change, rows, new)
            options = {**_plain(new), "pad_to": pad_to, "family": family}
            parents = {"model": str(folder)}
            write_manifest(temporary, "tokenizer extend", parents, options, result.as_dict())
        report.advance(1, "written")
    return result


def read_words(path: Path) -> list[str]:
    """Return the words of a file, one per line; what follows a tab (a count, say) is left out.

    Raises:
        DataError: if the file is missing, not UTF-8, or has no word.
    """
    problems = Problems()
    lines = [line.partition("\t")[0].strip() for _, line in read_lines(path, problems)]
    words = [line for line in lines if line]
    if not words and not problems:
        problems.append(f"{path}: there is no word in it")
    raise_problems(problems, path, "Expected UTF-8 text with a word per line. Fix what is listed.")
    return words


@dataclass(frozen=True)
class _Change:
    """A tokenizer before and after; the new tokens in the order of their ids."""

    old: Tokenizer
    tokenizer: Tokenizer
    words: list[str]
    control: list[str]
    learned: list[str]

    def ids(self) -> dict[str, int]:
        """Return the id of every new token."""
        texts = [*self.words, *self.control, *self.learned]
        return {text: self.old.vocab_size + index for index, text in enumerate(texts)}

    def new_rows(self, num_old: int) -> NewRows:
        """Return what the rows of new tokens, the ids from `num_old`, are the means of."""
        control = set(self.control)
        old = range(min(num_old, self.old.vocab_size))
        pieces: list[list[int]] = [[] for _ in range(num_old, self.old.vocab_size)]
        for text in self.ids():
            found = [] if text in control else self.pieces(text)
            pieces.append([token_id for token_id in found if token_id in old])
        ordinary = [token_id for token_id in old if token_id not in self.old.control_texts]
        return NewRows(num_old, pieces, ordinary)

    def pieces(self, word: str) -> list[int]:
        """Return the old tokens of a word."""
        return self.old.encode_plain(word, prefix=False)


def _check_options(new: NewTokens, pad_to: int) -> None:
    problems = []
    if not (new.words or new.word_files or new.control or new.num_learned):
        problems.append("there is nothing to add: give words, control tokens or a number to learn")
    if new.num_learned < 0:
        problems.append(f"{new.num_learned} words to learn; expected a positive number")
    if new.num_learned and not new.corpus:
        problems.append(f"{new.num_learned} words to learn, but no corpus to learn them from")
    if pad_to < 1:
        problems.append(f"rows padded to a multiple of {pad_to}; expected a positive number")
    if problems:
        raise ConfigError("The tokenizer cannot be extended so: " + "; ".join(problems) + ".")


def _rows_of_tokens(checkpoint: Checkpoint, tokenizer: Tokenizer) -> int:
    """Return how many of the first ids have a row; later ones get theirs now.

    Raises:
        CheckpointError: if others than added tokens have none: it is another model's tokenizer.
        TokenizerError: if the model was trained with another tokenizer.
    """
    check_stamp(checkpoint.folder, tokenizer)
    num_old = min(tokenizer.vocab_size, checkpoint.num_rows)
    added = {token.token_id for token in tokenizer.model.added}
    if not added.issuperset(range(num_old, tokenizer.vocab_size)):
        raise CheckpointError(
            f"The tokenizer in '{checkpoint.folder}' has {tokenizer.vocab_size:,} tokens, the "
            f"model only {checkpoint.num_rows:,} rows, and the tokens without a row are not added "
            "ones: this is another model's tokenizer. Put the published tokenizer files back."
        )
    return num_old


def _change(old: Tokenizer, new: NewTokens) -> _Change:
    words = [*new.words, *chain.from_iterable(read_words(path) for path in new.word_files)]
    given = extend(old, words, new.control)
    learned = costly_words(given, new.texts(), new.num_learned) if new.num_learned else []
    if new.num_learned and not learned:
        raise DataError(
            f"The corpus ({', '.join(map(str, new.corpus))}) has no word to learn: none that "
            "occurs at least three times costs more than one token. Give more text, or name words."
        )
    if len(learned) < new.num_learned:
        logger.warning(
            "the corpus gave %d words to learn, %d were asked for", len(learned), new.num_learned
        )
    return _Change(old, extend(given, learned), words, [*new.control], learned)


def _report(out: str, change: _Change, rows: RowCounts | None, new: NewTokens) -> ExtendReport:
    ids = change.ids()
    words = [*change.words, *change.learned]
    return ExtendReport(
        out=out,
        words={word: ids[word] for word in words},
        control={text: ids[text] for text in change.control},
        num_learned=len(change.learned),
        num_tokens_before=change.old.vocab_size,
        num_tokens_after=change.tokenizer.vocab_size,
        model_rows=rows,
        tokens_per_word=_per_word(change, words),
        tokens_per_document=_per_document(change, new.texts()),
        fingerprint=change.tokenizer.fingerprint(),
    )


def _per_word(change: _Change, words: Sequence[str]) -> Averages | None:
    """Return the tokens per new word, inside a text, before and after."""
    if not words:
        return None
    before, after = (
        sum(len(tokenizer.encode_plain(word, prefix=False)) for word in words) / len(words)
        for tokenizer in (change.old, change.tokenizer)
    )
    return Averages(before, after)


def _per_document(change: _Change, texts: Iterable[str]) -> Averages | None:
    """Return the tokens per text before and after; None without texts."""
    count, before, after = 0, 0, 0
    remaining = iter(texts)
    while batch := list(islice(remaining, _BATCH)):
        count += len(batch)
        before += sum(map(len, change.old.encode_batch(batch)))
        after += sum(map(len, change.tokenizer.encode_batch(batch)))
    return Averages(before / count, after / count) if count else None


def _plain(new: NewTokens) -> dict[str, Any]:
    return {
        "words": list(new.words),
        "word_files": [str(path) for path in new.word_files],
        "control": list(new.control),
        "corpus": [str(path) for path in new.corpus],
        "num_learned": new.num_learned,
    }
