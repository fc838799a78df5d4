"""Marks that a template writes and that its tokenizer has no token for.

Such a mark is not wrong, a model can learn it as text; but mostly a token was to be added.
"""

import re
from typing import TYPE_CHECKING

from danlu.tokenizer.chat.chat_format import ChatFormat

if TYPE_CHECKING:
    from danlu.tokenizer.base import Tokenizer

_MARK = re.compile(r"<\|[\w.:-]{1,40}\|>")  # as <|im_start|>, in a template's own text


def missing_marks(tokenizer: "Tokenizer", form: ChatFormat) -> list[str]:
    """Return the marks of a format's template that are no tokens, in their order."""
    written = dict.fromkeys(_MARK.findall(form.template or ""))
    known = tokenizer.special_tokens
    return [
        mark for mark in written if mark not in known and tokenizer.model.token_id(mark) is None
    ]
