"""Many runs: strengths, plan, engines, selection."""
