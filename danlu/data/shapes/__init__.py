"""One file per row shape; a shape is discovered by its file name."""
