"""Several schedulers on equal terms: the runs, and what they say."""
