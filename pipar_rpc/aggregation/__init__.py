"""How the networks of the devices become the next global network."""
