"""All of torch.distributed: the RPC group, remote objects, the exchange between the two halves.

How a call crosses: `remote.call(Device.train, epoch, start, stop)` names a method of the object's class, so
the type checker compares arguments and result with the method itself (`remote_object.py`).

- What travels is the object's reference, a number, the method's name and the arguments; then the result. All
  this is pickled, except for the tensors in it.
- A placed object is an actor: its methods run one after the other, on one of the threads for such objects.
  The RPC handler queues the call and returns a future. A handler that blocks can leave the process without a
  thread to answer with.
- The caller numbers its calls from 0, because RPCs overtake each other. The actor runs them in that order.
- A method that fails is answered with a value, a `Failure`, and the caller's future gets an error that says
  so. An RPC that fails gives the future a LostError; the worker is lost then, and later calls fail at once.
- A call has no deadline, since a device may train for hours. Those who wait for its future have one, which
  begins anew with each sign of life, and give up a worker that exceeds it. `Remote.doing` has a deadline: it
  is answered at once, however busy the object is.
"""
