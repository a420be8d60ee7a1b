"""From configuration to plain data: everything below takes plain arguments."""
