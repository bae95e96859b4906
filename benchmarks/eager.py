"""The train step in eager PyTorch, around the vision transformer of ``transformers``.

The same work as ``train.step.train_step`` for a recipe with one group, an EMA teacher and no
stochastic depth: teacher on the global crops, student on all, heads, Sinkhorn-Knopp, DINO, iBOT and
KoLeo losses, backward, a clip for each network, AdamW, EMA. Written from the formulas of
``dinov3_jax/losses``, as one would write it in PyTorch.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  its usual name
import transformers
from torch import nn

from dinov3_jax.config import HeadConfig, TrainConfig
from dinov3_jax.models import presets


class Head(nn.Module):
    def __init__(self, dim: int, config: HeadConfig):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.bottleneck),
        )
        self.prototypes = nn.Linear(config.bottleneck, config.prototypes, bias=False)

    def forward(self, x):
        return self.prototypes(F.normalize(self.mlp(x), dim=-1))


def networks(config: TrainConfig) -> nn.ModuleDict:
    """{backbone, dino_head, ibot_head} with random weights."""
    student = presets.complete(config.student)
    backbone = transformers.DINOv3ViTModel(vit_config(student, config.crops.global_size))
    heads = {"dino_head": config.dino.head, "ibot_head": config.ibot.head}
    return nn.ModuleDict(
        {"backbone": backbone, **{k: Head(student.embed_dim, head) for k, head in heads.items()}}
    )


def vit_config(student, image_size: int) -> transformers.DINOv3ViTConfig:
    """Of a complete ViT with an MLP, RoPE by a base and no stochastic depth."""
    return transformers.DINOv3ViTConfig(
        patch_size=student.patch_size,
        image_size=image_size,
        hidden_size=student.embed_dim,
        intermediate_size=presets.ffn_hidden(student),
        num_hidden_layers=student.depth,
        num_attention_heads=student.num_heads,
        num_register_tokens=student.storage_tokens,
        layerscale_value=student.layerscale,
        layer_norm_eps=student.norm_eps,
        rope_theta=student.rope_base,
        pos_embed_rescale=student.rope_rescale,
    )


def tokens(backbone, images, prefix: int, masks=None):
    """(CLS [n, D], patches [n, N, D]) of images [n, c, H, W]."""
    features = backbone(images, bool_masked_pos=masks).last_hidden_state
    return features[:, 0], features[:, prefix:]


def sinkhorn(logits, temperature: float, iterations: int = 3):
    q = torch.exp(logits / temperature).t()  # [K, n]
    q /= q.sum()
    for _ in range(iterations):
        q /= q.sum(dim=1, keepdim=True) * q.shape[0]
        q /= q.sum(dim=0, keepdim=True) * q.shape[1]
    return (q * q.shape[1]).t()


def koleo(features, eps: float = 1e-8):
    """One group [n, D]."""
    x = F.normalize(features, eps=eps, dim=-1)
    with torch.no_grad():
        cosines = x @ x.t()
        cosines.fill_diagonal_(-1)
        nearest = cosines.argmax(dim=1)
    return -torch.log((x - x[nearest] + eps).norm(dim=-1) + eps).mean()


def total_loss(
    student: nn.ModuleDict, teacher: nn.ModuleDict, batch: dict, *, config: TrainConfig, temperature
):
    """``batch``: global_crops and local_crops [B·n, c, H, W], masks, mask_indices, mask_weights."""
    prefix, images = 1 + config.student.storage_tokens, config.batch.images
    indices, weights = batch["mask_indices"], batch["mask_weights"]
    with torch.no_grad():
        cls, patches = tokens(teacher["backbone"], batch["global_crops"], prefix)
        cls_targets = sinkhorn(teacher["dino_head"](cls), temperature).view(images, 2, -1)
        masked = patches.flatten(0, 1)[indices]
        patch_targets = sinkhorn(teacher["ibot_head"](masked), temperature)

    global_cls, patches = tokens(student["backbone"], batch["global_crops"], prefix, batch["masks"])
    local_cls, _ = tokens(student["backbone"], batch["local_crops"], prefix)
    logits = student["dino_head"](torch.cat([global_cls, local_cls]))
    log_p = F.log_softmax(logits / 0.1, dim=-1)
    log_p_global = log_p[: 2 * images].view(images, 2, -1)
    log_p_local = log_p[2 * images :].view(images, -1, log_p.shape[-1])
    n_local = log_p_local.shape[1]
    # A global crop against the other one, a local crop against both.
    dino_global = -(cls_targets.flip(1) * log_p_global).sum() / (2 * images)
    dino_local = -torch.einsum("btk,bsk->", cls_targets, log_p_local) / (2 * n_local * images)
    log_p_patch = F.log_softmax(student["ibot_head"](patches.flatten(0, 1)[indices]) / 0.1, dim=-1)
    ibot = -(weights * (patch_targets * log_p_patch).sum(-1)).sum() / (2 * images)
    spread = sum(koleo(global_cls.view(images, 2, -1)[:, i]) for i in range(2))

    pairs = 2 + 2 * n_local
    dino = (2 * dino_global + 2 * n_local * dino_local) / pairs
    return config.dino.weight * dino + config.ibot.weight * ibot + config.koleo.weight * spread


def make_step(config: TrainConfig, batch: dict) -> Callable[[], float]:
    """A function that makes one optimizer step and returns the loss; numbers of the schedules'
    peaks."""
    student, teacher = networks(config).train(), networks(config).eval()
    teacher.load_state_dict(student.state_dict())
    teacher.requires_grad_(False)
    parameters = list(student.parameters())
    decays = config.optim.weight_decay.peak
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decays},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=config.optim.lr.peak,
        betas=(config.optim.beta1, config.optim.beta2),
        fused=True,
    )
    momentum, temperature = config.teacher.momentum.peak, config.teacher.temperature.peak

    def step() -> float:
        loss = total_loss(student, teacher, batch, config=config, temperature=temperature)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for network in student.values():
            nn.utils.clip_grad_norm_(network.parameters(), config.optim.clip)
        optimizer.step()
        with torch.no_grad():
            averages = list(teacher.parameters())
            torch._foreach_mul_(averages, momentum)
            torch._foreach_add_(averages, parameters, alpha=1 - momentum)
        return loss.item()

    return step


def as_torch(batch) -> dict:
    """The arrays of a ``Batch`` of one group, as ``total_loss`` wants them."""

    def crops(x):
        flat = np.asarray(x).reshape(-1, *x.shape[2:])
        return torch.from_numpy(flat.transpose(0, 3, 1, 2).copy())

    return {
        "global_crops": crops(batch.global_crops),
        "local_crops": crops(batch.local_crops),
        "masks": torch.from_numpy(np.array(batch.masks).reshape(-1, batch.masks.shape[-1])),
        "mask_indices": torch.from_numpy(np.array(batch.mask_indices)[0]).long(),
        "mask_weights": torch.from_numpy(np.array(batch.mask_weights)[0]),
    }
