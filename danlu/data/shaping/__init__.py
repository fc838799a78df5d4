"""What row shapes are made of: typed fields, turns of speakers, functions and calls."""
