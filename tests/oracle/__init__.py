"""A second, naive implementation of the semantics, from the specification alone, to check the first."""
