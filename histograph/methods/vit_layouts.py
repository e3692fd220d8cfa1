"""The names that others give to the weights of a Vision Transformer: the one table that the converter reads.

Ours are the field's (timm, DINO, MAE); what differs elsewhere is a name, three matrices where we have one, or a setting
that no weight tells.
"""

from dataclasses import dataclass, field

#: Parts of a block, in our names.
PARTS = ("norm1", "attn.qkv", "attn.proj", "ls1", "norm2", "mlp.fc1", "mlp.fc2", "ls2")
#: Tensors outside the blocks, in our names.
OUTSIDE = (
    "cls_token",
    "pos_embed",
    "register_tokens",
    "patch_embed.proj.weight",
    "patch_embed.proj.bias",
    "norm.weight",
    "norm.bias",
)


@dataclass(frozen=True)
class Naming:
    """How a family of files names the weights.

    Attributes
    ----------
    outside : dict of str to str
        Our name to theirs, outside the blocks, as far as they differ.
    stack : str
        What the names of block ``{}`` begin with.
    parts : dict of str to (tuple of str)
        Our part of a block to theirs, as far as they differ; several are stacked row by row.

    Examples
    --------
    >>> FIELD.of_block(3, "mlp.fc1", "weight")
    ('blocks.3.mlp.fc1.weight',)
    """

    outside: dict[str, str] = field(default_factory=dict)
    stack: str = "blocks.{}."
    parts: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def of_block(self, number: int, part: str, kind: str) -> tuple[str, ...]:
        """Give the names of a tensor of a block.

        Parameters
        ----------
        number : int
            Of the block.
        part : str
            In `PARTS`.
        kind : str
            ``"weight"``, ``"bias"`` or ``"gamma"``.

        Returns
        -------
        tuple of str
            Names whose tensors are stacked.
        """
        start = self.stack.format(number)
        # a layer scale is a vector by itself: its own name holds no kind
        names = self.parts.get(part, (f"{part}.gamma",) if kind == "gamma" else (part,))
        return tuple(start + name + ("" if kind == "gamma" else f".{kind}") for name in names)


_HF_OUTSIDE = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "register_tokens": "embeddings.register_tokens",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}
_SCALES = {"ls1": ("layer_scale1.lambda1",), "ls2": ("layer_scale2.lambda1",)}
_NORMS = {"norm1": ("layernorm_before",), "norm2": ("layernorm_after",)}
# of files, and of models in memory since transformers 5
_ATTENTION_4 = {
    "attn.qkv": tuple(f"attention.attention.{name}" for name in ("query", "key", "value")),
    "attn.proj": ("attention.output.dense",),
}
_ATTENTION_5 = {
    "attn.qkv": tuple(f"attention.{name}_proj" for name in "qkv"),
    "attn.proj": ("attention.o_proj",),
}
_MLP_4 = {"mlp.fc1": ("intermediate.dense",), "mlp.fc2": ("output.dense",)}

FIELD = Naming()
TIMM = Naming({"register_tokens": "reg_token"})
HF_VIT = Naming(_HF_OUTSIDE, "encoder.layer.{}.", _NORMS | _ATTENTION_4 | _MLP_4)
HF_VIT_5 = Naming(_HF_OUTSIDE, "layers.{}.", _NORMS | _ATTENTION_5)
HF_DINOV2 = Naming(_HF_OUTSIDE, "encoder.layer.{}.", _ATTENTION_4 | _SCALES)
HF_DINOV2_5 = Naming(_HF_OUTSIDE, "encoder.layer.{}.", _ATTENTION_5 | _SCALES)


@dataclass(frozen=True)
class Layout:
    """A family of weight files: names, and what no weight tells.

    Attributes
    ----------
    namings : tuple of Naming
        That occur; the first is written.
    eps : float
        Of the norms.
    offset : float
        See `interpolation_offset` of :class:`histograph.nn.VisionTransformer`; 0 where there are registers.
    antialias : bool
        Whether positions are smoothed before they are interpolated to a smaller grid.
    antialias_registers : bool
        The same where there are registers.
    layer_scale : bool or None
        Whether there are layer scales; None for either.
    registers : bool
        Whether there may be registers.
    mean, std : (float, float, float) or None
        Of each channel of pixels from 0 to 1, where the released code fixes them.

    Examples
    --------
    >>> LAYOUTS["hf-vit"].eps
    1e-12
    """

    namings: tuple[Naming, ...] = (FIELD,)
    eps: float = 1e-6
    offset: float = 0.0
    antialias: bool = False
    antialias_registers: bool = False
    layer_scale: bool | None = False
    registers: bool = False
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


#: The families by name.
LAYOUTS: dict[str, Layout] = {
    "vit": Layout(layer_scale=None, registers=True),
    "gcmae": Layout(mean=(0.6790435, 0.5052883, 0.66902906), std=(0.19158737, 0.2039779, 0.15648715)),
    "dino": Layout(offset=0.1),
    "mae": Layout(),
    "dinov2": Layout(offset=0.1, antialias_registers=True, layer_scale=None, registers=True),
    "timm": Layout((TIMM,), antialias=True, antialias_registers=True, layer_scale=None, registers=True),
    "hf-vit": Layout((HF_VIT, HF_VIT_5), eps=1e-12),
    "hf-dinov2": Layout((HF_DINOV2, HF_DINOV2_5), antialias_registers=True, layer_scale=True, registers=True),
}
