"""How long a training would take with 100 to 100,000 devices: computed, nothing is trained."""
