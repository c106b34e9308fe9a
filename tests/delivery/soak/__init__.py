"""Break delivery and the door at random, for as long as you like, and see whether what they promise holds."""
