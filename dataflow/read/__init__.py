"""What comes in: records of source partitions become inputs for shards, each with its stream time."""
