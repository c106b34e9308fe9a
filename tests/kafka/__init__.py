"""A real Apache Kafka for the tests and the benchmarks, and its fixtures."""
