"""`danlu models`: the families that Danlu opens."""

from danlu.cli.terminal import print_rows


def command() -> None:
    """List the model families that Danlu opens, trains, quantizes and saves.

    [bold]Example[/bold]

    - danlu models
    """
    from danlu.models import discover

    print_rows((name, family.summary) for name, family in discover().items())
