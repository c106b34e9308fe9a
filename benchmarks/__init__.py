"""Measurements of the job against what it is compared with; apart from the tests, and never run by them."""
