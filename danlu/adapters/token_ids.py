"""Which tokens a config of token rows means: ids, texts, or the control tokens of a chat format."""

from collections.abc import Sequence
from typing import Any, TypeVar

from danlu.adapters.attached import Adaptable
from danlu.adapters.targets import EMBEDDING
from danlu.adapters.wrappers import original_embedding
from danlu.adapters.wrapping import embedding_of
from danlu.config.base import Config
from danlu.errors import AdapterError, TokenizerError, bullet_list, did_you_mean
from danlu.tokenizer import Tokenizer
from danlu.tokenizer.chat.chat_format import ChatInput

C = TypeVar("C", bound=Config)
CONTROL = "control"
_SAMPLE = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b"},
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b"},
]


def with_token_ids(config: C, tokenizer: Tokenizer) -> C:
    """Return the config with ids in the place of texts and of "control".

    Raises:
        AdapterError: naming every text that is no token.
        TokenizerError: if "control" is asked for and the tokenizer has no chat format.
    """
    wanted = getattr(config, "token_rows", None)
    if wanted is None:
        return config
    ids = control_ids(tokenizer) if wanted == CONTROL else _ids_of_texts(wanted, tokenizer)
    return config.model_copy(update={"token_rows": ids})


def control_ids(tokenizer: Tokenizer) -> list[int]:
    """Return the ids of the control tokens that the tokenizer's chat format writes.

    Raises:
        TokenizerError: if there is no chat format.
    """
    layouts = [tokenizer.format_of().layout(tokenizer, ChatInput(_SAMPLE, False))]
    try:
        system = [{"role": "system", "content": "c"}, *_SAMPLE]
        layouts.append(tokenizer.format_of().layout(tokenizer, ChatInput(system, False)))
    except TokenizerError:
        pass  # a format without a system message has no tokens for one
    found = [span.token_id for layout in layouts for span in layout.controls]
    return sorted({*found, *tokenizer.stop_ids()})


def _ids_of_texts(wanted: Sequence[int | str], tokenizer: Tokenizer) -> list[int]:
    ids, problems = [], []
    for token in wanted:
        found = token if isinstance(token, int) else _token_id(token, tokenizer)
        if found is None:
            problems.append(f"{token!r}{did_you_mean(str(token), tokenizer.special_tokens)}")
        else:
            ids.append(found)
    if problems:
        raise AdapterError(
            f"token_rows names texts that are no tokens:{bullet_list(problems)}\n"
            "Expected ids, whole tokens, or 'control'. New words come in with "
            "`danlu tokenizer extend`."
        )
    return sorted(set(ids))


def _token_id(text: str, tokenizer: Tokenizer) -> int | None:
    known = tokenizer.special_tokens.get(text)
    return tokenizer.model.token_id(text) if known is None else known


def known_ids(model: Adaptable, token_rows: Any) -> list[int]:
    """Return the ids of a config whose texts became ids.

    Raises:
        AdapterError: if there are texts left, or ids that the model does not have.
    """
    vocab = len(original_embedding(embedding_of(model)).weight)
    if token_rows == CONTROL or any(isinstance(token, str) for token in token_rows):
        raise AdapterError(
            f"token_rows {token_rows!r} needs a tokenizer. Expected ids, or attach_adapter with "
            "tokenizer=."
        )
    wrong = [token for token in token_rows if not 0 <= token < vocab]
    if wrong or not token_rows:
        raise AdapterError(
            f"token_rows {wrong or token_rows}: {EMBEDDING} has rows 0 to {vocab - 1}. Expected "
            "at least one of them."
        )
    return sorted(set(token_rows))
