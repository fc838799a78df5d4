"""One file per method of adapting; each is found by its file name and says `METHOD`."""
