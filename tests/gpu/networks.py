"""A small convolutional network, smooth in its input and its time label."""

import torch
from torch import nn

from score_sde_analytic import LinearVP, ScoreModel

VP = LinearVP()


class Small(nn.Module):
    """eps of images, near x itself: paths under it do not part."""

    def __init__(self, channels=1, width=16):
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.last = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x, t, shift=None):
        hidden = torch.tanh(self.first(x) + t.to(x)[:, None, None, None])
        answer = 0.5 * x + 0.3 * self.last(hidden)
        return answer if shift is None else answer + 0.1 * shift.to(x)[:, None, None, None]


def small(device="cpu", channels=1, **settings):
    """The same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Small(channels).eval()
    return ScoreModel(net.to(device), VP, predicts="v", fingerprint="small", **settings)
