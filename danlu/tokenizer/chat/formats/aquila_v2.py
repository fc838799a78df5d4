"""AquilaChat2-70B-Expr: as aquila-v1, after an opening sentence."""

from danlu.tokenizer.chat.one_text import END, MIDDLE, SENTENCE, START, Style, one_text_format

FORMAT = one_text_format(
    "aquila-v2",
    Style(
        opening=f"{SENTENCE}\n\n",
        user=START,
        assistant=MIDDLE,
        asking=f"{MIDDLE} ",
        separators=("", END),
    ),
    stops=(END, "<|endoftext|>", START, MIDDLE),
    stop_texts=(),
)
