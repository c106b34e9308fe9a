"""What is remembered: records, user state, windows, timers, their codec and the shard store."""
