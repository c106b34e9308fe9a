"""The formats of events, one file each."""
