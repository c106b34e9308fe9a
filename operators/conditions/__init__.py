"""What `where` asks of an event and `when` of a user."""
