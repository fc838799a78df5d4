"""`danlu data`: look into data, build corpora, mix sources, scan for contamination.

Each sub-command is a module of this package with a function `command`.
"""

import pkgutil
from importlib import import_module

import typer

app = typer.Typer(
    no_args_is_help=True,
    help="See rows as the model does; build corpora, mix sources, scan for evaluation items.",
)

for _module in pkgutil.iter_modules(__path__):
    app.command(_module.name)(import_module(f"{__name__}.{_module.name}").command)
