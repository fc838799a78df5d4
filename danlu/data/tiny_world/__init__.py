"""A tiny world of parallel stories in Chinese and English, with instructions to check exactly."""

from danlu.data.tiny_world.instructions import KINDS
from danlu.data.tiny_world.world import TinyWorld, WorldFiles, write_world

__all__ = ["KINDS", "TinyWorld", "WorldFiles", "write_world"]
