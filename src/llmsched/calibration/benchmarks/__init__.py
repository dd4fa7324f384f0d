"""What serving benchmarks write, read as latencies."""
