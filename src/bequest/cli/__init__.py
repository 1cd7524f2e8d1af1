"""The command line. Parsing imports no torch, so that every `--help` is instant."""
