"""Token methods in float64, token by token, as their papers write them."""

from __future__ import annotations

import numpy as np
import torch


def tome(
    tokens: np.ndarray, size: np.ndarray, keys: np.ndarray, gone: int, prefix: int
) -> tuple[np.ndarray, np.ndarray]:
    """ToMe, section 3, for one image: (tokens that are left, sizes) as the prefix, what is left of A, B.

    `tokens`: (tokens, channels); `size`: (tokens,); `keys`: (tokens, width).
    """
    first = [i for i in range(prefix, len(tokens)) if i % 2 == 0]
    second = [i for i in range(prefix, len(tokens)) if i % 2 == 1]

    def cosine(i: int, j: int) -> float:
        return float(keys[i] @ keys[j] / np.sqrt((keys[i] @ keys[i]) * (keys[j] @ keys[j])))

    edges = {i: max((cosine(i, j), j) for j in second) for i in first}
    merged = sorted(first, key=lambda i: -edges[i][0])[:gone]
    sums = {j: [tokens[j] * size[j], size[j]] for j in second}
    for i in merged:
        j = edges[i][1]
        sums[j] = [sums[j][0] + tokens[i] * size[i], sums[j][1] + size[i]]
    stay = [*range(prefix), *(i for i in first if i not in merged)]
    left = [tokens[i] for i in stay] + [total / weight for total, weight in sums.values()]
    return np.stack(left), np.array([*(size[i] for i in stay), *(weight for _, weight in sums.values())])


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def forward(vit, image, before_mlp):
    """Outputs of a plain transformer for one image, float64, head by head and query by query.

    `before_mlp(block, tokens, keys, attention, state) -> (tokens, state)`; `state` is a dict, whose `size` is what
    each token stands for: its log is added to the logits, and means are weighted by it.
    """
    tokens = vit._pos_embed(vit.patch_embed(image[None]))[0]
    state = {}
    for number, block in enumerate(vit.blocks):
        size = state.get("size", np.ones(len(tokens)))
        tokens, keys, attention = attended(block, tokens, size)
        tokens, state = before_mlp(number, tokens, keys, attention, state)
        tokens = tokens + block.mlp(block.norm2(tokens))
    tokens = vit.norm(tokens)
    if vit.global_pool == "token":
        return vit.head(vit.fc_norm(tokens[0]))
    size = state.get("size", np.ones(len(tokens)))
    return vit.head(vit.fc_norm(sum(token * weight for token, weight in zip(tokens, size, strict=True)) / size.sum()))


def attended(block, tokens, size):
    """Tokens behind the attention of a block, its keys (heads, tokens, width) and attention (heads, queries, keys)."""
    heads, width = block.attn.num_heads, block.attn.head_dim
    qkv = block.attn.qkv(block.norm1(tokens)).reshape(len(tokens), 3, heads, width)
    out, all_keys, all_attention = [], [], []
    for head in range(heads):
        queries, keys, values = (qkv[:, part, head] for part in range(3))
        attention = softmax((queries @ keys.T / width**0.5).numpy() + np.log(size))
        out.append(torch.tensor(attention) @ values)
        all_keys.append(keys.numpy())
        all_attention.append(attention)
    return tokens + block.attn.proj(torch.cat(out, 1)), np.stack(all_keys), np.stack(all_attention)


def cp_vit(attention: np.ndarray, score: np.ndarray, left: int, prefix: int) -> tuple[list[int], np.ndarray]:
    """CP-ViT, section 3: (positions of the patches that stay, their scores). `attention`: (heads, queries, keys)."""
    total = [
        float(score[p]) + sum(max(head[q][prefix + p] for q in range(head.shape[0])) for head in attention)
        for p in range(len(score))
    ]
    stay = sorted(sorted(range(len(total)), key=lambda p: -total[p])[:left])
    return stay, np.array([total[p] for p in stay])


def policy_softmax(logits: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """DynamicViT, equations 10 and 11: exp(P_ij) G_ij / sum_k exp(P_ik) G_ik, G_ij = 1 where i = j, else kept_j."""
    found = np.zeros_like(logits)
    for i in range(len(logits)):
        weights = [np.exp(logits[i][j]) * (1.0 if i == j else kept[j]) for j in range(len(logits))]
        found[i] = np.array(weights) / sum(weights)
    return found


def dynamicvit_loss(kept, wanted, outputs, teacher_outputs, tokens, teacher_tokens):
    """DynamicViT, equations 15 to 20 without the classification loss: 2 ratio + 0.5 KL + 0.5 distance.

    `kept`: for each stage (images, patches) of 0 and 1; `tokens`: (images, patches, channels).
    """
    images = len(outputs)
    ratio = np.mean(
        [np.mean([(m[b].mean() - w) ** 2 for b in range(images)]) for m, w in zip(kept, wanted, strict=True)]
    )
    kl = 0.0
    for b in range(images):
        p, q = softmax(teacher_outputs[b]), softmax(outputs[b])
        kl += sum(p[c] * (np.log(p[c]) - np.log(q[c])) for c in range(len(p))) / images
    apart = [
        ((tokens[b, i] - teacher_tokens[b, i]) ** 2).mean()
        for b in range(images) for i in range(tokens.shape[1]) if kept[-1][b, i]
    ]  # fmt: skip
    return 2 * ratio + 0.5 * kl + 0.5 * np.mean(apart)
