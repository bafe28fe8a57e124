"""The benchmarks of `make bench`. Compare ratios: machines differ."""
