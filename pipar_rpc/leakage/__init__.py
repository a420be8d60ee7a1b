"""What the server could learn from what it sees: measured on a finished run and held-out images."""
