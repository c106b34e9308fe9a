"""The demo: a made-up shop, and a picture of what the job does."""
