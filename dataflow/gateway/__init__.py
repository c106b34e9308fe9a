"""`nudge gateway`: the HTTP door for events, receipts, clicks and unsubscribes."""
