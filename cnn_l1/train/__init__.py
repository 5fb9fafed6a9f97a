"""The spine: one run, from config to report."""
