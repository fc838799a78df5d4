"""GGUF files, which llama.cpp and everything built on it open.

`exporting` puts a file together; `architectures` holds one file per graph of llama.cpp;
`vocabulary` says the tokenizer; `file` writes and reads back.
"""

from danlu.export.gguf.encoding import FILE_TYPES
from danlu.export.gguf.exporting import export_gguf

__all__ = ["FILE_TYPES", "export_gguf"]
