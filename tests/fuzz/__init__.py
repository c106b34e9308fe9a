"""Hostile input: named examples with what must come of them, properties, and a fuzzer for the night."""
