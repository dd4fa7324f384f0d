"""`deadline_window`: batches of alike requests from anywhere in the queue."""
