"""The commands, as `danlu --help` shows them. A new command is one file and one line here.

Each entry names a module of this package with a `command` function, or with an `app` of
sub-commands. Only the module of the command that was asked for is imported, and its body imports
the work, so help and completion stay instant.
"""

from typing import NamedTuple


class Entry(NamedTuple):
    """A command: its name (and the name of its file), its section of the help, its one line."""

    name: str
    section: str
    summary: str


START = "Start here"
TRAIN = "Train"
TRANSFORM = "Transform and measure"
USE = "Use"

COMMANDS = (
    Entry("tour", START, "The whole life of a tiny model on this machine, in minutes."),
    Entry("init", START, "Write a commented run file to edit."),
    Entry("migrate", START, "An old project's command as a run file."),
    Entry("data", TRAIN, "Look into training data as the model sees it; build, mix, scan it."),
    Entry("tokenizer", TRAIN, "Train, extend or compare tokenizers."),
    Entry("pretrain", TRAIN, "Train a model from scratch on raw text."),
    Entry("finetune", TRAIN, "Teach a model conversations, with an adapter or whole."),
    Entry("align", TRAIN, "Teach a model what people prefer: DPO, KTO, ORPO, SimPO, rewards."),
    Entry("merge", TRANSFORM, "Merge an adapter into its base; show that nothing moved."),
    Entry("quantize", TRANSFORM, "Fewer bits per weight; show what that costs."),
    Entry("export", TRANSFORM, "A model for transformers, vLLM or llama.cpp; show it is the same."),
    Entry("compare", TRANSFORM, "KL, top-1 agreement and perplexity between two models."),
    Entry("eval", TRANSFORM, "Exact-match accuracy on instructions, perplexity on text."),
    Entry("generate", USE, "Continue a text, or answer one message."),
    Entry("chat", USE, "Talk with a model in the terminal."),
    Entry("download", USE, "Fetch a model from Hugging Face or ModelScope, verified."),
    Entry("info", USE, "What a folder holds: family, sizes, memory, what is missing."),
    Entry("models", USE, "The model families, and what works with each."),
)
