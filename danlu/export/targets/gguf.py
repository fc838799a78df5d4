"""One file for llama.cpp and what is built on it."""

from danlu.export.gguf import FILE_TYPES, export_gguf
from danlu.export.target import Target

TARGET = Target("gguf", "one file for llama.cpp", {"dtype": tuple(FILE_TYPES)}, export_gguf)
