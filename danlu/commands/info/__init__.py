"""What a folder is: from its configs and the headers of its weight files, however broken it is.

describing.py   a folder to its description; everything wrong is collected, nothing stops it
shape.py        family and sizes
weights.py      weight files, and how their tensors fit the model
memory.py       bytes to load, to train and to cache
tokens.py       tokenizer and chat format
adapter.py      adapters
"""

from danlu.commands.info.describing import AdapterInfo, ModelInfo, describe

__all__ = ["AdapterInfo", "ModelInfo", "describe"]
