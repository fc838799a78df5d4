"""`vocab.json` and `merges.txt`: GPT-2, OPT, Aquila 1/2, Qwen2/2.5/3, GLM-10B English.

They differ in how text is cut into words and in their control tokens; the family, the tokenizer
class or the vocabulary itself tells which it is.

Sources: `encoder.json`/`vocab.bpe` of GPT-2; `tokenization_gpt2.py` and `tokenization_qwen2.py` of
transformers; the side files of OPT, AquilaChat-7B and GLM-10B.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from danlu.errors import TokenizerError, bullet_list
from danlu.tokenizer.byte_level import GPT2, QWEN, WordStyle, build_byte_level
from danlu.tokenizer.families import Dialect, dialect_of
from danlu.tokenizer.library import LibraryFacts, LibraryModel
from danlu.tokenizer.model import TokenizerFolder
from danlu.tokenizer.pair_merges import Pair, token_merges
from danlu.tokenizer.pieces import byte_level_bytes
from danlu.tokenizer.rank_engine import LazyEngine, RankEngine
from danlu.tokenizer.special import AddedToken, TokenizerSettings, json_object

VOCAB_FILE = "vocab.json"
MERGES_FILE = "merges.txt"
FILES = (VOCAB_FILE, MERGES_FILE)
PRIORITY = 5
QWEN2_WORDS = 151643
END_OF_TEXT = "<|endoftext|>"
QWEN_WORDS = frozenset(  # added tokens that are no control tokens; added_tokens.json cannot say so
    f"<{name}>"
    for name in (
        *("tool_call", "/tool_call", "tool_response", "/tool_response", "think", "/think"),
        *("|fim_prefix|", "|fim_middle|", "|fim_suffix|", "|fim_pad|", "|repo_name|", "|file_sep|"),
    )
)
_NOT_MADE = re.compile(r"<.*>|\[.*\]|madeupword\d+")  # tokens of a vocabulary that text never is


@dataclass(frozen=True)
class PairFamily:
    """What a family adds to its vocabulary.

    Attributes:
        style: how it cuts text into words.
        controls: control tokens that are in the vocabulary.
        appended: control tokens numbered after it, unless the folder declares tokens.
        named: which tokens are bos, eos, pad and unk.
        prefix, suffix: the control tokens around a raw prompt.
        tokenizer_class: what saved folders say of themselves.
    """

    style: WordStyle = GPT2
    controls: tuple[str, ...] = ()
    appended: tuple[str, ...] = ()
    named: Mapping[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()
    suffix: tuple[str, ...] = ()
    tokenizer_class: str = "GPT2Tokenizer"


PAIR_FAMILIES = {
    Dialect.GPT2: PairFamily(
        controls=(END_OF_TEXT,),
        named={"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "unk_token": END_OF_TEXT},
    ),
    Dialect.OPT: PairFamily(
        controls=("<s>", "<pad>", "</s>", "<unk>"),
        named={
            **{"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>"},
            "pad_token": "<pad>",
        },
        prefix=("</s>",),
    ),
    Dialect.AQUILA: PairFamily(
        controls=(END_OF_TEXT,),
        appended=(
            *("<|startofpiece|>", "<|endofpiece|>", "<|LDWANG|>"),
            *("[MASK]", "[gMASK]", "[sMASK]", "[CLS]", "</s>"),
        ),
        named={"bos_token": "[CLS]", "eos_token": "</s>", "pad_token": END_OF_TEXT},
    ),
    Dialect.QWEN2: PairFamily(
        style=QWEN,
        appended=(END_OF_TEXT, "<|im_start|>", "<|im_end|>"),
        named={"eos_token": END_OF_TEXT, "pad_token": END_OF_TEXT},
        tokenizer_class="Qwen2Tokenizer",
    ),
    Dialect.GLM_10B: PairFamily(
        controls=(END_OF_TEXT,),
        appended=(
            *("<|startofpiece|>", "<|endofpiece|>", "[CLS]", "[MASK]", "[SEP]", "[UNK]"),
            *("[gMASK]", "[sMASK]", "dBLOCK"),
        ),
        named={"eos_token": END_OF_TEXT, "pad_token": END_OF_TEXT},
        prefix=("[CLS]",),
        suffix=("[gMASK]", END_OF_TEXT, "<|startofpiece|>"),
        tokenizer_class="GLMGPT2Tokenizer",
    ),
}


def claims(folder: TokenizerFolder) -> bool:
    """Is there a `vocab.json` or a `merges.txt`?"""
    return any((folder.path / name).is_file() for name in FILES)


def open_model(folder: TokenizerFolder) -> "PairModel":
    """Open the folder's vocabulary and merges.

    Raises:
        TokenizerError: if one is missing or damaged, or they do not fit together.
    """
    missing = [name for name in FILES if not (folder.path / name).is_file()]
    if missing:
        raise TokenizerError(
            f"'{folder.path}' has no {missing[0]}. Expected {VOCAB_FILE} and {MERGES_FILE} of a "
            "byte-level BPE tokenizer; fetch it from where the other came from."
        )
    files = {name: (folder.path / name).read_bytes() for name in FILES}
    vocab, merges = _read_pair(folder.path, files)
    _check_pair(folder.path, vocab, merges)
    family = PAIR_FAMILIES[_dialect(folder, vocab)]
    return PairModel(files, family, _added(folder.settings, family, vocab))


def _read_pair(folder: Path, files: Mapping[str, bytes]) -> tuple[dict[str, int], list[Pair]]:
    vocab = _read_vocab(folder / VOCAB_FILE, files[VOCAB_FILE])
    return vocab, _read_merges(folder / MERGES_FILE, files[MERGES_FILE])


def _read_vocab(path: Path, data: bytes) -> dict[str, int]:
    vocab = json_object(path, data)
    wrong = [item for item in vocab.items() if type(item[1]) is not int or item[1] < 0]
    if wrong or not vocab:
        found = f"{wrong[0][0]!r}: {wrong[0][1]!r}" if wrong else "nothing"
        raise TokenizerError(
            f"'{path}' holds {found}; expected a JSON object of token: id. Fetch it again."
        )
    return vocab


def _read_merges(path: Path, data: bytes) -> list[Pair]:
    try:
        lines = data.decode().split("\n")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"'{path}' is not UTF-8 text: {error}. Fetch it again.") from None
    start = 1 if lines[0].startswith("#version") else 0
    pairs = [tuple(line.rstrip("\r").split(" ")) for line in lines[start:] if line.strip()]
    wrong = [" ".join(pair) for pair in pairs if len(pair) != 2 or not all(pair)]
    if wrong or not pairs:
        found = f"{len(wrong)} lines that are no pair, {wrong[0]!r} first" if wrong else "no merges"
        raise TokenizerError(
            f"'{path}' has {found}; expected two tokens with a space between in each line. "
            "Fetch it again."
        )
    return [(pair[0], pair[1]) for pair in pairs]


def _check_pair(path: Path, vocab: Mapping[str, int], merges: Sequence[Pair]) -> None:
    """Raise unless every merge is of the vocabulary and every word of it comes from a merge."""
    foreign = [pair for pair in merges if not (pair[0] in vocab and pair[1] in vocab)]
    made = {left + right for left, right in merges}
    problems = [f"the merge {' '.join(pair)!r} is of tokens it does not have" for pair in foreign]
    problems += [f"the merged token {token!r} is not in it" for token in made if token not in vocab]
    unmade = [token for token in vocab if len(token) > 1 and token not in made]
    problems += [f"its token {t!r} comes from no merge" for t in unmade if not _NOT_MADE.match(t)]
    problems += [f"the ids {ids} are there twice" for ids in [_repeated(vocab)] if ids]
    if problems:
        raise TokenizerError(
            f"{VOCAB_FILE} in '{path}' does not fit {MERGES_FILE}:{bullet_list(problems, limit=5)}"
            "\nExpected two files of one tokenizer, both complete; fetch them again."
        )


def _repeated(vocab: Mapping[str, int]) -> list[int]:
    if len(set(vocab.values())) == len(vocab):
        return []
    return [token_id for token_id, count in Counter(vocab.values()).items() if count > 1][:5]


def _dialect(folder: TokenizerFolder, vocab: Mapping[str, int]) -> Dialect:
    named = dialect_of(folder)
    if named is not None and named is not Dialect.GPT2 and named in PAIR_FAMILIES:
        return named
    found = _by_content(folder.settings, vocab)
    if found is not None and named in (None, Dialect.GPT2):
        return found
    if named is Dialect.GPT2:
        return named
    known = ", ".join(dialect.value for dialect in PAIR_FAMILIES)
    raise TokenizerError(
        f"Nothing in '{folder.path}' tells how the tokenizer of {VOCAB_FILE} cuts text into words "
        f"(family {folder.family!r}). Expected one of {known}: name it (family=, --family), or "
        "bring the tokenizer.json of the model."
    )


def _by_content(settings: TokenizerSettings, vocab: Mapping[str, int]) -> Dialect | None:
    declared = {token.text: token.token_id for token in settings.declared}
    if len(vocab) == QWEN2_WORDS:
        return Dialect.QWEN2
    if vocab.get("<pad>") == 1 and vocab.get("</s>") == 2:
        return Dialect.OPT
    if vocab.get(END_OF_TEXT) == 0:
        return Dialect.AQUILA
    if "<|startofpiece|>" in declared:
        return Dialect.GLM_10B
    return Dialect.GPT2 if END_OF_TEXT in vocab else None


def _added(
    settings: TokenizerSettings, family: PairFamily, vocab: Mapping[str, int]
) -> tuple[AddedToken, ...]:
    """Return the control tokens of the vocabulary, and what the folder or the family appends."""
    inside = {
        vocab[text]: AddedToken(text, vocab[text]) for text in family.controls if text in vocab
    }
    beyond = enumerate(family.appended, start=1 + max(vocab.values()))
    declared = {token.token_id: token for token in _declared(settings)}
    texts = {token.text for token in settings.declared}
    own = {i: AddedToken(text, i) for i, text in beyond if text not in texts and i not in declared}
    tokens = {**inside, **({} if _complete(family, texts) else own), **declared}
    return tuple(token for _, token in sorted(tokens.items()))


def _complete(family: PairFamily, texts: set[str]) -> bool:
    """Does the folder declare control tokens of the family, so that it knows better?"""
    return not texts.isdisjoint(family.appended)


def _declared(settings: TokenizerSettings) -> Iterator[AddedToken]:
    flags_known = bool(settings.config.get("added_tokens_decoder"))
    for token in settings.declared:
        plain = not flags_known and token.text in QWEN_WORDS
        yield replace(token, special=False) if plain else token


class PairModel(LibraryModel):
    """A `TokenModel` made from a vocabulary and merges; `save` gives both files back."""

    def __init__(
        self, files: dict[str, bytes], family: PairFamily, added: tuple[AddedToken, ...]
    ) -> None:
        self._files = files
        self._family = family
        vocab, merges = _read_pair(Path("."), files)
        ids = {token.text: token.token_id for token in added}
        facts = LibraryFacts(
            added=added,
            vocab_size=1 + max(*vocab.values(), *ids.values()),
            default_named={name: text for name, text in family.named.items() if text in ids},
            default_prefix=tuple(ids[text] for text in family.prefix if text in ids),
            default_suffix=tuple(ids[text] for text in family.suffix if text in ids),
            tokenizer_class=family.tokenizer_class,
        )
        backend = build_byte_level(vocab, merges, family.style, added)
        super().__init__(backend, facts, engine=LazyEngine(self._build_engine))

    def _build_engine(self) -> RankEngine | None:
        """Return an engine, None where merging by rank is not what the merges say."""
        vocab, merges = _read_pair(Path("."), self._files)
        made = [left + right for left, right in merges]
        words = [*(word for word in vocab if len(word) == 1), *made]
        ranks = {word: rank for rank, word in enumerate(words)}
        if len(ranks) != len(words) or token_merges(ranks) != merges:
            return None
        ranked = {byte_level_bytes(word): rank for rank, word in enumerate(words)}
        if any(bytes([byte]) not in ranked for byte in range(256)):
            return None
        ids = [vocab[word] for word in words]
        made_ids = ids[len(words) - len(made) :]
        if all(earlier < later for earlier, later in pairwise(made_ids)):
            # Numbered in the order of merging: the ids are ranks themselves (of single bytes
            # tiktoken compares none), and nothing is left to translate.
            ranked = dict(zip(ranked, ids, strict=True))
            return RankEngine(ranked, self._family.style, None, self.plain_words())
        return RankEngine(ranked, self._family.style, ids, self.plain_words())

    def extended(self, tokens: Sequence[AddedToken], settings: TokenizerSettings) -> "PairModel":
        """Return this model with further added tokens."""
        return PairModel(self._files, self._family, (*self.added, *tokens))

    def files(self) -> dict[str, bytes]:
        """Return both files as published."""
        return dict(self._files)

    def canonical(self) -> bytes:
        """Return both files and the tokens beside them."""
        return b"".join(self._files.values()) + repr(self.added).encode()
