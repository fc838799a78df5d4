"""From a source to its rows, each with its `file:line`, and what is wrong with them."""
