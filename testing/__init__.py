"""What tests and benchmarks share: real servers, receivers, and clients of the API."""
