"""All of torch.distributed: the RPC group, remote objects, the way between the two halves."""
