"""What stands in front of every text: prefixes, prompts, P-Tuning v2."""
