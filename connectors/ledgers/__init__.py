"""Where delivery keeps what it has begun and what became of it: one file per kind of ledger."""
