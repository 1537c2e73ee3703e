"""Random operations and faults, one after the other, and what must be true after each of them."""
