"""A tokenizer with more words and control tokens; every old id stays what it is.

New tokens get the ids after the highest one. They are matched as whole strings before anything else
is done to a text, so a text without them has the ids that it had.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from danlu.errors import TokenizerError, bullet_list
from danlu.tokenizer.base import Tokenizer
from danlu.tokenizer.special import AddedToken, TokenizerSettings

# Scripts that put no spaces between words: a word is one also with letters beside it.
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")


def extend(
    tokenizer: Tokenizer, words: Sequence[str] = (), control: Sequence[str] = ()
) -> Tokenizer:
    """Return the tokenizer with `words` and `control` tokens added behind its highest id.

    A word of letters that are written with spaces between words is found as a whole word only
    where the kind of tokenizer can tell ("cat", but not in "concatenate"; sentencepiece cannot).

    Args:
        tokenizer: stays as it is.
        words: become tokens wherever they stand in a text.
        control: control tokens, which text never becomes.

    Raises:
        TokenizerError: naming every token that is empty, given twice or there already; or if this
            kind of tokenizer cannot hold them.
    """
    problems = [*_problems(tokenizer, words, control)]
    if problems:
        raise TokenizerError(
            f"These tokens cannot be added to {tokenizer.settings.origin}:{bullet_list(problems)}\n"
            "Expected new texts without white space around them, each once. Leave these out."
        )
    tokens = _tokens(tokenizer.vocab_size, words, control)
    if not tokens:
        return tokenizer
    every = [*tokenizer.model.added, *tokens]
    settings = _settings(tokenizer.settings, every, len(tokens))
    extended = Tokenizer(tokenizer.model.extended(tokens, settings), settings)
    _check(tokenizer, extended, tokens)
    return extended


def _problems(tokenizer: Tokenizer, words: Sequence[str], control: Sequence[str]) -> Iterator[str]:
    seen: set[str] = set()
    for text in (*words, *control):
        if not text.strip():
            yield f"{text!r} is empty" if not text else f"{text!r} is only white space"
        elif text != text.strip():
            yield f"{text!r} has white space around it"
        elif text in seen:
            yield f"{text!r} is given twice"
        elif not _is_unicode(text):
            yield f"{text!r} is not valid Unicode text"
        elif (found := token_of(tokenizer, text)) is not None:
            yield f"{text!r} is a token already, with id {found}"
        seen.add(text)


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def token_of(tokenizer: Tokenizer, text: str) -> int | None:
    """Return the id of `text` if the tokenizer has it as one token, a control token included."""
    found = tokenizer.model.token_id(text)
    if found is None:
        ids = tokenizer.encode_plain(text, prefix=False)
        found = ids[0] if len(ids) == 1 and tokenizer.decode(ids) == text else None
    return found


def _tokens(first: int, words: Sequence[str], control: Sequence[str]) -> list[AddedToken]:
    added = [
        AddedToken(text, first + index, special=False, single_word=not _UNSPACED.search(text))
        for index, text in enumerate(words)
    ]
    first += len(added)
    return added + [AddedToken(text, first + index) for index, text in enumerate(control)]


def _settings(
    settings: TokenizerSettings, tokens: Sequence[AddedToken], num_new: int
) -> TokenizerSettings:
    """Return the side files that declare all added tokens, as transformers reads them too.

    The old ones are declared again with their flags, which the new list would hide.
    """
    control = (token.text for token in tokens[-num_new:] if token.special)
    additional = (*settings.additional, *control)
    config = dict(settings.config)
    config["added_tokens_decoder"] = {
        **{str(token.token_id): token.entry() for token in tokens},
        **(config.get("added_tokens_decoder") or {}),
    }
    if additional:
        config["additional_special_tokens"] = list(additional)
    return replace(settings, config=config, additional=additional, declared=tuple(tokens))


def _check(old: Tokenizer, new: Tokenizer, tokens: Sequence[AddedToken]) -> None:
    """Raise unless the extended tokenizer reads and writes every new token."""
    problems = [problem for token in tokens for problem in _broken(old, new, token)]
    if problems:
        raise TokenizerError(
            f"The kind of tokenizer in {old.settings.origin} cannot hold these tokens:"
            f"{bullet_list(problems)}\nNothing was changed. Add them as control tokens, or leave "
            "them out."
        )


def _broken(old: Tokenizer, new: Tokenizer, token: AddedToken) -> Iterator[str]:
    if new.model.token_id(token.text) != token.token_id:
        yield f"{token.text!r} would not get the id {token.token_id}"
    elif token.special:
        if new.encode(token.text, allow_special=True)[-1:] != [token.token_id]:
            yield f"{token.text!r} would not be found as a control token"
    else:
        if token.token_id not in new.encode(token.text):
            yield f"{token.text!r} would not be found in a text"
        around = f"a {token.text} a" if token.single_word else f"a{token.text}a"
        if new.decode(new.encode(around)) not in (around, old.decode(old.encode(around))):
            yield f"{token.text!r} would change the text around it"
