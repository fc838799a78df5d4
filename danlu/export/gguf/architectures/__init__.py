"""One file per GGUF architecture, called as llama.cpp calls it; found by its file name."""
