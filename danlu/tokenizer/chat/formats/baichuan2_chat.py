"""Baichuan2-7B/13B-Chat: turns marked by `<reserved_106>` (195) and `<reserved_107>` (196)."""

from danlu.tokenizer.chat.reserved import reserved_format

FORMAT = reserved_format("baichuan2-chat", user="<reserved_106>", assistant="<reserved_107>")
