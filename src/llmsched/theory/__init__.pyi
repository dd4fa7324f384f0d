from .multi_bin import (
    bins_needed as bins_needed,
    check_at_least as check_at_least,
    check_edges as check_edges,
    equal_mass_edges_s as equal_mass_edges_s,
    exponential_edges_s as exponential_edges_s,
    exponential_makespan_bound_s as exponential_makespan_bound_s,
    formation_wait_s as formation_wait_s,
    throughput_limit_per_s as throughput_limit_per_s,
    uniform_latency_s as uniform_latency_s,
    uniform_makespan_s as uniform_makespan_s,
    uniform_throughput_per_s as uniform_throughput_per_s,
)
