"""Many runs, resumable."""
