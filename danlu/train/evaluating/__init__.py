"""What is evaluated while training, and which weights were best."""
