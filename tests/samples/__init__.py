"""States that earlier versions have written, and what came of them."""
