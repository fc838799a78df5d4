"""AquilaChat2-7B: turns between control tokens, without any opening sentence."""

from danlu.tokenizer.chat.one_text import END, MIDDLE, START, Style, one_text_format

FORMAT = one_text_format(
    "aquila-v1",
    Style(opening="", user=START, assistant=MIDDLE, asking=f"{MIDDLE} ", separators=("", END)),
    stops=(END, "<|endoftext|>"),
    stop_texts=(),
)
