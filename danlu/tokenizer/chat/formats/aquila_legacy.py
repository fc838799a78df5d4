"""AquilaChat2-34B: `### Human: ` and `### Assistant: ` on lines of their own."""

from danlu.tokenizer.chat.one_text import END, SENTENCE, Style, one_text_format

FORMAT = one_text_format(
    "aquila-legacy",
    Style(
        opening=f"{SENTENCE}\n\n",
        user="### Human: ",
        assistant="### Assistant: ",
        asking="### Assistant:  ",
        separators=("\n", END),
    ),
    stops=(END,),
    stop_texts=("[UNK]",),
)
