"""The layers of the small network with attention against PyTorch's."""

import torch
from torch import nn

from bench.backbones.small_attention import HEADS, SmallAttention


def test_layers_compute_what_those_of_pytorch_do() -> None:
    torch.manual_seed(0)
    encoder, _ = SmallAttention(width=2).build((3, 16, 16))
    (layer, *_) = next(part for part in encoder.modules() if hasattr(part, "positions")).layers  # type: ignore[misc]
    width = 2 * HEADS
    theirs = nn.TransformerEncoderLayer(
        width, HEADS, 2 * width, dropout=0, activation="gelu", batch_first=True, norm_first=True
    )
    weights = layer.state_dict()
    names = {
        "self_attn.in_proj_": "query_key_value.",
        "self_attn.out_proj.": "projection.",
        "norm1.": "attention_norm.",
        "norm2.": "linear.0.",
        "linear1.": "linear.1.",
        "linear2.": "linear.3.",
    }
    theirs.load_state_dict(
        {new + end: weights[old + end] for new, old in names.items() for end in ("weight", "bias")}
    )
    tokens = torch.randn(2, 64, width)
    assert torch.allclose(layer(tokens), theirs(tokens), atol=1e-5)
