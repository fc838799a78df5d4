"""AquilaChat-7B: `###Human: ` and `###Assistant: ` after an opening sentence; no end token."""

from danlu.tokenizer.chat.one_text import END, SENTENCE, Style, one_text_format

FORMAT = one_text_format(
    "aquila-chat",
    Style(
        opening=f"{SENTENCE}###",
        user="Human: ",
        assistant="Assistant: ",
        asking="Assistant: ",
        separators=("###", "###"),
    ),
    stops=(END,),
    stop_texts=("###", "[UNK]"),
)
