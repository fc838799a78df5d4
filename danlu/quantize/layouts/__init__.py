"""What formats of files share or consist of: bits in words, configs, groups of layers."""
