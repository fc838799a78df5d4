"""A checkpoint of an architecture that stock transformers (and vLLM) opens, without remote code."""

from danlu.export.reexpressing import architecture_target

TARGET = architecture_target("transformers", "an architecture that transformers and vLLM open")
