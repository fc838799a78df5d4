"""Conversations to tokens: one way for training, evaluation and serving.

chat_format.py   what a format is, what it is given, what comes out (`Rendered`)
segments.py      formats written as pieces: text, who says it, is it learned
formats/         the built-in ones, a file each
jinja_format.py  a folder's own Jinja template: control tokens and contents from marks
jinja_answers.py what the assistant writes in it: enclosed, marked, or by rendered prefixes
template_json.py chat_template.json, of Hugging Face and of PaddleNLP
rendering.py     pieces to ids, roles, loss mask and spans
truncation.py    a history that is too long, by whole rounds
training.py      a conversation to learn from: labels, weights, what was left out
learning.py      which tokens are learned, and how much each counts
shortening.py    a conversation to learn from that is too long: rounds, question, answer
tool_messages.py calls of tools and their answers, whatever they are called
react.py         Qwen-1's tools: how they are shown, how a call is read
"""
