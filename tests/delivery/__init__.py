"""Delivery: from an action to its outcome."""
