"""What tests and benchmarks stand on: a scripted receiver, three ledgers and their checker, real processes."""
