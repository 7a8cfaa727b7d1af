"""Commands as options: typed functions and their docstrings, read from the source; values from arguments and files."""
