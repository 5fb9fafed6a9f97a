"""Other pruning tools on our networks, data, splits and seeds: see README.md."""
