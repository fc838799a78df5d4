"""Models from Hugging Face and ModelScope: fetched when asked for, found again by their id.

    names.py        ids, revisions and file names, checked before they become paths
    sources.py      the two hubs: addresses, tokens, lists of files, what their refusals mean
    connection.py   requests: redirects, secrets, kinds of trouble
    choosing.py     which files are fetched: data and weights, never code
    fetching.py     one file: gone on with, tried again, verified
    downloading.py  one model: all of it or nothing
    cache.py        where models are kept; `resolve`: a path or an id to a folder

Only `download` uses the network. Nothing here imports torch.
"""

from danlu.hub.cache import cached_folder, models_folder, resolve
from danlu.hub.downloading import Downloaded, download
from danlu.hub.names import SOURCES, HubName, parse_name

__all__ = [
    "SOURCES",
    "Downloaded",
    "HubName",
    "cached_folder",
    "download",
    "models_folder",
    "parse_name",
    "resolve",
]
