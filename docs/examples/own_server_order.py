"""A server order of your own: whoever is first is served first, on one thread."""

from pipar_rpc.transport.server_order import InOrder


class FirstCome:
    def __init__(self, num_devices, open_thread):
        pool = open_thread("compute-first-come")
        self._lanes = [InOrder(pool) for _ in range(num_devices)]

    def begin(self, lengths, iteration):
        pass  # nothing is planned ahead

    def lane(self, index):
        return self._lanes[index]
