"""The job: its course, its processes, and the engine they run on."""
