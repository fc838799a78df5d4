"""One file for each project whose commands are understood; it has a `SOURCE`."""
