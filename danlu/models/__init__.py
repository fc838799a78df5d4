"""The decoder, and one file per family in `danlu/models/families`."""

from danlu.models.family import Family, RawConfig, detect_family, discover

__all__ = ["Family", "RawConfig", "detect_family", "discover"]
