"""The commands of `nudge`, one file each."""
