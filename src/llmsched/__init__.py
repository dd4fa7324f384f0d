"""llmsched: which batching scheduler, with how many GPUs, meets a latency SLA on your traffic."""
