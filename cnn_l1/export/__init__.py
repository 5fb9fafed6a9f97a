"""One module an export format, and the registry of formats."""
