"""From configuration to plain data: the rooms below take plain arguments."""
