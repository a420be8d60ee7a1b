"""A small language model, cut between its blocks: characters of the text that ships with Python.

torchrun --nproc-per-node=3 -m pipar_rpc data=custom data._target_=transformer.Text model=custom \
    model._target_=transformer.build optimizer=adamw optimizer.lr=0.002 schedule=cosine network=none
"""

from pydoc_data.topics import topics

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset


class Text(Dataset):
    """Sequences of characters; the labels are the characters that come next. The last tenth is for testing.

    Training sequences begin anywhere: each is moved by a random number of characters.
    """

    def __init__(self, split, length=64):
        text = "\n".join(topics[name] for name in sorted(topics))
        self.classes = sorted(set(text))  # their number is the network's `num_classes`
        number = {character: index for index, character in enumerate(self.classes)}
        tokens, border = torch.tensor([number[character] for character in text]), len(text) * 9 // 10
        self.tokens = tokens[:border] if split == "train" else tokens[border:]
        self.length, self.moves = length, split == "train"

    def __len__(self):
        return (len(self.tokens) - 1) // self.length - 1

    def __getitem__(self, index):
        start = index * self.length + (int(torch.randint(self.length, ())) if self.moves else 0)
        return self.tokens[start : start + self.length], self.tokens[start + 1 : start + self.length + 1]


class Embedding(nn.Module):
    """Tokens [b, T] to vectors [b, T, width]."""

    def __init__(self, vocabulary, length, width):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)

    def forward(self, tokens):
        return self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]


class Block(nn.Module):
    """Attention to what came before, then an MLP, each after a layer norm and added to its input."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
        parts = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*parts, is_causal=True)  # [b, heads, T, width / heads]
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class Head(nn.Module):
    """Vectors [b, T, width] to outputs [b, vocabulary, T], as cross entropy takes them."""

    def __init__(self, width, vocabulary):
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, vocabulary)

    def forward(self, x):
        return self.linear(self.norm(x)).transpose(1, 2)


def build(input_shape, num_classes, width=96, blocks=3, heads=4):
    """One cut unit for the embedding, for each block, and for the head."""
    inner = [Block(width, heads) for _ in range(blocks)]
    return nn.Sequential(Embedding(num_classes, input_shape[0], width), *inner, Head(width, num_classes))


class LoRA(nn.Linear):
    """A frozen linear layer plus a trained product of two thin matrices (Hu et al., ICLR 2022, equation 3).

    `up` begins with zeros, so that the network begins as the pretrained one; its names stay the same.
    """

    def __init__(self, inputs, outputs, rank):
        super().__init__(inputs, outputs)
        self.down = nn.Parameter(torch.randn(rank, inputs) / inputs**0.5)
        self.up = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x):
        return super().forward(x) + x @ self.down.T @ self.up.T


def build_lora(input_shape, num_classes, rank=4, width=96, blocks=3, heads=4):
    """The same network, of which only adapters of the attention's first layer are trained."""
    network = build(input_shape, num_classes, width, blocks, heads).requires_grad_(False)
    for block in network[1:-1]:
        block.qkv = LoRA(block.qkv.in_features, block.qkv.out_features, rank)
        block.qkv.requires_grad_(False)
        block.qkv.down.requires_grad_()
        block.qkv.up.requires_grad_()
    return network
