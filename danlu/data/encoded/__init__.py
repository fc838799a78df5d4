"""Examples as arrays of tokens: encoded by several processes, kept on the disk by content."""
