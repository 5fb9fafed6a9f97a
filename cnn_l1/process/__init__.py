"""What a program of this package does at its edges: quiet, Ctrl-C, failures, processor."""
