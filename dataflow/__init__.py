"""What runs: the job on its engine, virtual time, settings, the command line."""
