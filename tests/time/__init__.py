"""Time: whatever clocks, brokers and partitions do, the actions are those of a job that was on time."""
