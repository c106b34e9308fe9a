"""Delivery, from an action to exactly one outcome: pure, with time as an argument."""
