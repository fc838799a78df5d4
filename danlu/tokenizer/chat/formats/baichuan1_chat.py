"""Baichuan-13B-Chat: turns marked by `<reserved_102>` (195) and `<reserved_103>` (196)."""

from danlu.tokenizer.chat.reserved import reserved_format

FORMAT = reserved_format("baichuan1-chat", user="<reserved_102>", assistant="<reserved_103>")
