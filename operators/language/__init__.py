"""What flow files say, and what can be wrong with them."""
