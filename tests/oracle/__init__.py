"""A second, naive implementation of the semantics, written from the specification alone, to check the first."""
