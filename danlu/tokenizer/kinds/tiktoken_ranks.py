"""tiktoken rank files: `qwen.tiktoken` of Qwen-1, `tokenizer.model` of Llama 3 and of GLM-4.

The ranks become merges (`danlu.tokenizer.pair_merges`), and the `tokenizers` library does the rest;
texts are encoded by tiktoken itself where it is installed, which is several times faster.
Which of the three it is follows from the file's name, the family, or the number of ranks.

Sources: `tokenization_qwen.py` of Qwen-7B (control tokens and `extra_vocab_file`), `tokenizer.py`
of Llama 3 and the control tokens of Llama 3.1, `tokenization_chatglm.py` of glm-4-9b.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from danlu.errors import TokenizerError
from danlu.tokenizer.byte_level import LLAMA3, QWEN, WordStyle, build_byte_level
from danlu.tokenizer.families import Dialect, dialect_of
from danlu.tokenizer.library import LibraryFacts, LibraryModel
from danlu.tokenizer.model import TokenizerFolder
from danlu.tokenizer.pair_merges import token_merges
from danlu.tokenizer.pieces import spell_bytes
from danlu.tokenizer.rank_engine import LazyEngine, RankEngine
from danlu.tokenizer.rank_files import check_complete, looks_like_ranks, read_ranks
from danlu.tokenizer.special import AddedToken, TokenizerSettings

QWEN_FILE = "qwen.tiktoken"
QWEN_EXTRA_FILE = "qwen_extra.tiktoken"
MODEL_FILE = "tokenizer.model"
FILES = (QWEN_FILE, MODEL_FILE)
PRIORITY = 15


@dataclass(frozen=True)
class RankFamily:
    """What a family adds to its ranks.

    Attributes:
        num_ranks: how many ranks its published file has.
        style: how it cuts text into words.
        controls: its control tokens, numbered after the ranks unless the folder declares others.
        named: which of them are bos, eos and pad.
        prefix: the control tokens in front of a raw prompt.
        tokenizer_class: what saved folders say of themselves.
    """

    num_ranks: int
    style: WordStyle
    controls: tuple[str, ...]
    named: dict[str, str]
    prefix: tuple[str, ...]
    tokenizer_class: str


def _llama3_controls() -> Iterator[str]:
    names = {
        0: "<|begin_of_text|>",
        1: "<|end_of_text|>",
        4: "<|finetune_right_pad_id|>",
        6: "<|start_header_id|>",
        7: "<|end_header_id|>",
        8: "<|eom_id|>",
        9: "<|eot_id|>",
        10: "<|python_tag|>",
    }
    reserved = iter(range(256))
    for index in range(256):
        yield names.get(index) or f"<|reserved_special_token_{next(reserved)}|>"


def _whole_words(style: WordStyle) -> WordStyle:
    return WordStyle(style.pattern, style.nfc, whole_words=True)


END_OF_TEXT = "<|endoftext|>"
RANK_FAMILIES = {
    Dialect.QWEN: RankFamily(
        151643,
        _whole_words(QWEN),
        (END_OF_TEXT, "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205))),
        {"eos_token": END_OF_TEXT, "pad_token": END_OF_TEXT},
        (),
        "QWenTokenizer",
    ),
    Dialect.LLAMA3: RankFamily(
        128000,
        _whole_words(LLAMA3),
        tuple(_llama3_controls()),
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"},
        ("<|begin_of_text|>",),
        "PreTrainedTokenizerFast",
    ),
    Dialect.GLM4: RankFamily(
        151329,
        _whole_words(LLAMA3),
        (
            *(END_OF_TEXT, "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>"),
            *("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
            *("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"),
        ),
        {"eos_token": END_OF_TEXT, "pad_token": END_OF_TEXT},
        ("[gMASK]", "<sop>"),
        "ChatGLM4Tokenizer",
    ),
}
_RANK_DIALECTS = {  # the families whose name alone leaves open which file they use
    Dialect.LLAMA: Dialect.LLAMA3,
    Dialect.CHATGLM2: Dialect.GLM4,
    Dialect.CHATGLM: Dialect.GLM4,
}


def claims(folder: TokenizerFolder) -> bool:
    """Is there a `qwen.tiktoken`, or a `tokenizer.model` that is a rank file?"""
    named = (folder.path / QWEN_FILE).is_file()
    return named or looks_like_ranks(folder.path / MODEL_FILE)


def open_model(folder: TokenizerFolder) -> "RankModel":
    """Open the folder's rank file.

    Raises:
        TokenizerError: if it is damaged, or nothing tells whose it is.
    """
    named = (folder.path / QWEN_FILE).is_file()
    path = folder.path / (QWEN_FILE if named else MODEL_FILE)
    ranks = read_ranks(path)
    family = RANK_FAMILIES[Dialect.QWEN if named else _dialect(folder, path, len(ranks))]
    added = _added(folder.settings, family, len(ranks))
    check_complete(path, ranks, min((t.token_id for t in added), default=family.num_ranks))
    files = {path.name: path.read_bytes()}
    extra = folder.path / QWEN_EXTRA_FILE
    if named and extra.is_file():
        ranks |= _extra_ranks(extra, ranks, added)
        files[extra.name] = extra.read_bytes()
    return RankModel(ranks, family, added, files)


def _dialect(folder: TokenizerFolder, path: Path, num_ranks: int) -> Dialect:
    named = dialect_of(folder)
    if named is not None:
        named = _RANK_DIALECTS.get(named, named)
    by_size = {family.num_ranks: dialect for dialect, family in RANK_FAMILIES.items()}
    found = named if named in RANK_FAMILIES else by_size.get(num_ranks)
    if found is None:
        raise TokenizerError(
            f"'{path}' is a tiktoken file of {num_ranks} ranks, and nothing tells which family it "
            f"belongs to. Expected {_sizes()}. Name the family (family=, --family), or fetch the "
            "file again if it was cut off."
        )
    return found


def _sizes() -> str:
    return ", ".join(f"{f.num_ranks} ({d.value})" for d, f in RANK_FAMILIES.items())


def _added(
    settings: TokenizerSettings, family: RankFamily, num_ranks: int
) -> tuple[AddedToken, ...]:
    """Return the tokens the folder declares and, where it says nothing, those of the family."""
    declared = {token.token_id: token for token in settings.declared}
    if num_ranks != family.num_ranks and declared:
        return tuple(declared.values())
    own = enumerate(family.controls, start=family.num_ranks)
    texts = {token.text for token in settings.declared}
    default = {i: AddedToken(text, i) for i, text in own if text not in texts}
    return tuple(token for _, token in sorted({**default, **declared}.items()))


def _extra_ranks(
    path: Path, ranks: dict[bytes, int], added: tuple[AddedToken, ...]
) -> dict[bytes, int]:
    """Return the user's further words, numbered after the control tokens."""
    taken = {*ranks.values(), *(token.token_id for token in added)}
    extra = read_ranks(path)
    wrong = [token for token, rank in extra.items() if token in ranks or rank in taken]
    if wrong:
        raise TokenizerError(
            f"'{path}' has {len(wrong)} words or ids that the tokenizer already has, {wrong[0]!r} "
            f"as {extra[wrong[0]]} first. Expected new words with ids of their own; build it again."
        )
    return extra


class RankModel(LibraryModel):
    """A `TokenModel` made from ranks; `save` gives the rank file back as it was."""

    def __init__(
        self,
        ranks: dict[bytes, int],
        family: RankFamily,
        added: tuple[AddedToken, ...],
        files: dict[str, bytes],
    ) -> None:
        self._files = files
        self._family = family
        vocab = dict(zip(spell_bytes(list(ranks)), ranks.values(), strict=True))
        ids = {token.text: token.token_id for token in added}
        facts = LibraryFacts(
            added=added,
            vocab_size=1 + max(*vocab.values(), *ids.values()),
            default_named={name: text for name, text in family.named.items() if text in ids},
            default_prefix=tuple(ids[text] for text in family.prefix if text in ids),
            tokenizer_class=family.tokenizer_class,
        )
        backend = build_byte_level(vocab, token_merges(vocab), family.style, added)
        super().__init__(backend, facts, engine=LazyEngine(self._build_engine))

    def _build_engine(self) -> RankEngine:
        return RankEngine(self._ranks(), self._family.style, words=self.plain_words())

    def _ranks(self) -> dict[bytes, int]:
        """Return the ranks, read again: they are large, and rarely needed."""
        files = (read_ranks(Path(name), data) for name, data in self._files.items())
        return {token: rank for ranks in files for token, rank in ranks.items()}

    def extended(self, tokens: Sequence[AddedToken], settings: TokenizerSettings) -> "RankModel":
        """Return this model with further added tokens."""
        return RankModel(self._ranks(), self._family, (*self.added, *tokens), self._files)

    def files(self) -> dict[str, bytes]:
        """Return the rank files as published."""
        return dict(self._files)

    def canonical(self) -> bytes:
        """Return the rank files and the tokens beside them."""
        return b"".join(self._files.values()) + repr(self.added).encode()
