"""AquilaChat2-7B-16K and AquilaChat2-34B-16K: as aquila-chat, answers end with `</s>`."""

from danlu.tokenizer.chat.one_text import END, SENTENCE, Style, one_text_format

FORMAT = one_text_format(
    "aquila",
    Style(
        opening=f"{SENTENCE}###",
        user="Human: ",
        assistant="Assistant: ",
        asking="Assistant: ",
        separators=("###", END),
    ),
    stops=(END,),
    stop_texts=("[UNK]",),
)
