"""How fast links and devices are: emulated, recorded or measured."""
