"""The focal loss, as a loss of one's own (Lin et al., "Focal Loss for Dense Object Detection", 2017).

torchrun --nproc-per-node=3 -m pipar_rpc loss=custom loss._target_=own_loss.FocalLoss loss.args.gamma=1.5
"""

import torch
from torch.nn import functional as F


class FocalLoss(torch.nn.Module):
    """Mean of -alpha_c (1 - p)^gamma log p, over the sum of alpha_c; p is the probability of class c."""

    def __init__(self, gamma=2.0, alpha=None):
        super().__init__()
        self.gamma = gamma
        self.register_buffer("alpha", None if alpha is None else torch.tensor(alpha))

    def forward(self, outputs, labels):
        log_p = F.log_softmax(outputs, dim=1).gather(1, labels[:, None])[:, 0]
        loss = -((1 - log_p.exp()) ** self.gamma) * log_p
        weights = torch.ones_like(loss) if self.alpha is None else self.alpha[labels]
        return (weights * loss).sum() / weights.sum()

    def count(self, labels):
        return len(labels) if self.alpha is None else float(self.alpha.cpu()[labels].sum())
