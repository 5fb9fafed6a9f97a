"""From zero channels to a smaller network: plan, removal, batch-norm folding."""
