"""What runs: one user, one record or wake-up, and all that follows."""
