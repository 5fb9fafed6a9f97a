"""What an exported file does: scores, latency, memory, boards."""
