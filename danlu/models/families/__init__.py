"""One file per family; a family is discovered by its file name."""
