"""What a job keeps on disk, and who looks at it."""
