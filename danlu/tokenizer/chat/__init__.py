"""Conversations to tokens: one way for training, evaluation and serving.

chat_format.py   what a format is, what it is given, what comes out (`Rendered`)
segments.py      formats written as pieces: text, who says it, is it learned
formats/         the built-in ones, a file each
jinja_format.py  a folder's own Jinja template: the mask from rendered prefixes
template_json.py chat_template.json, of Hugging Face and of PaddleNLP
rendering.py     pieces to ids, roles, loss mask and spans
truncation.py    a history that is too long, by whole rounds
react.py         Qwen-1's tools: how they are shown, how a call is read
"""
