"""What each command does, callable from Python: typed in, typed result out, no terminal."""
