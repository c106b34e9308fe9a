"""`nudge deliver`: actions are read, providers called, and receipts written."""
