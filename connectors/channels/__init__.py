"""What actions are delivered through: one file per provider."""
