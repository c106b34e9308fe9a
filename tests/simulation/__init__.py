"""The job in a world of its own: one process, a made-up clock, and faults from a seed. See docs/architecture.md."""
