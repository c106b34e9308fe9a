"""Providers that are not there: servers on this machine that answer as documented, and misbehave when told to."""
