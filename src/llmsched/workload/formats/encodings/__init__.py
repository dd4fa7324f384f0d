"""How a table of requests is written: delimited text, JSON lines, Parquet."""
