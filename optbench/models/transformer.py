"""A small GPT: a decoder-only transformer with learned positions and layer norm before each branch.

Vaswani et al. 2017, arXiv 1706.03762 (attention); Radford et al. 2019, "Language models are unsupervised multitask
learners" (GPT-2: pre-norm, GELU, N(0, 0.02) weights with scaled residual projections, tied embedding).
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from optbench.data.spec import DataSpec
from optbench.errors import UserError
from optbench.models.language import vocabulary_of
from optbench.models.layers import Dropout

INITIAL_STD = 0.02


class CausalSelfAttention(nn.Module):
    """softmax(Q K^T / sqrt(width / heads) + causal mask) V per head, then a projection (Vaswani et al. 2017, eq. 1)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs and outputs are (examples, steps, width)."""
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.query_key_value(inputs).chunk(3, dim=2)
        )
        # No dropout here: the fused kernel would draw masks that depend on the division of the batch.
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        outputs: Tensor = self.projection(mixed.transpose(1, 2).flatten(2))
        return outputs


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), with dropout on each branch; the MLP is 4 times as wide."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = CausalSelfAttention(width, heads)
        self.attention_dropout = Dropout(dropout)
        self.mlp_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)
        self.mlp_dropout = Dropout(dropout)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs and outputs are (examples, steps, width)."""
        hidden = inputs + self.attention_dropout(self.attention(self.attention_norm(inputs)))
        outputs: Tensor = hidden + self.mlp_dropout(self.contract(F.gelu(self.expand(self.mlp_norm(hidden)))))
        return outputs


class GPT(nn.Module):
    """tokens (examples, steps), int64 -> logits of the next token (examples, steps, vocabulary).

    There is one learned position for each step of the dataset's examples. Dropout acts on the embedded tokens and on the
    residual branches; unlike GPT-2, not on the attention weights. ``tied`` makes the readout, which has no bias, share the
    token embedding's matrix.

    The fused attention kernels have no second derivative and no forward-mode derivative. To get these, run the model under
    ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``.

    Raises UserError for a dataset that is not of tokens, and if ``heads`` does not divide ``width``.
    """

    def __init__(
        self,
        data: DataSpec,
        layers: int = 4,
        heads: int = 4,
        width: int = 128,
        dropout: float = 0.0,
        tied: bool = True,
    ) -> None:
        super().__init__()
        vocabulary = vocabulary_of(data)
        if width % heads:
            raise UserError(f"model.heads={heads}: must divide model.width={width}")
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(data.shape[0], width)
        self.embedding_dropout = Dropout(dropout)
        self.blocks = nn.Sequential(*(Block(width, heads, dropout) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.readout = nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.readout.weight = self.embedding.weight
        self._initialize(layers)

    def _initialize(self, layers: int) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=INITIAL_STD)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        # 2 * layers branches are summed; this scale keeps the variance of the sum independent of the depth.
        for name, parameter in self.named_parameters():
            if name.endswith(("projection.weight", "contract.weight")):
                nn.init.normal_(parameter, std=INITIAL_STD / math.sqrt(2 * layers))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (examples, steps, vocabulary); those at step t depend on the tokens up to and including t."""
        hidden = self.embedding_dropout(self.embedding(tokens) + self.positions.weight[: tokens.shape[1]])
        outputs: Tensor = self.readout(self.norm(self.blocks(hidden)))
        return outputs
