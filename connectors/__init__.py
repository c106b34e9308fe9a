"""What talks to the world: one class per outside system, no decisions, no engine."""
