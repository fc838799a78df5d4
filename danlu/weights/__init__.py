"""Weight files: safe streaming readers, shards and two-way name rules. Knows no family."""
