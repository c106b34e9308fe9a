"""Flow files become programs."""
