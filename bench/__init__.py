"""The benchmarks behind `make bench`. Ratios are what counts: machines differ."""
