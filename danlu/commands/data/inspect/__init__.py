"""Data as the model sees it: every token with its role and its loss, and what looks wrong.

plan.py         what to look at: the data of a run file, or files beside a model
reading.py      the examples of any source, whatever it is for
views.py        rows as tokens with text, role, label and weight
checks.py       doubled BOS, unlearned stop, rows that are lost or shortened, spelled control tokens
embedding.py    control tokens whose embedding was never trained
inspecting.py   all of it together
page.py         as a page; page_style.py has its style and script
sample.py       one sample in words, for the beginning of a training
"""

from danlu.commands.data.inspect.checks import Finding
from danlu.commands.data.inspect.inspecting import Inspection, inspect_data, label_text
from danlu.commands.data.inspect.page import page, write_page
from danlu.commands.data.inspect.plan import Plan, plan_of_run
from danlu.commands.data.inspect.sample import sample_text
from danlu.commands.data.inspect.views import RowView, TokenView

__all__ = [
    "Finding",
    "Inspection",
    "Plan",
    "RowView",
    "TokenView",
    "inspect_data",
    "label_text",
    "page",
    "plan_of_run",
    "sample_text",
    "write_page",
]
