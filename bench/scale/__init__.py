"""How time and memory of the commands grow with what they work on."""
