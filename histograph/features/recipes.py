"""What the model cards of pathology encoders say and their files do not: pixel size, tokens, options.

Facts as published by the makers of each model; a model that is not listed here works too, with the options in its own
files, and its pixel size unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

__all__ = ["RECIPES", "Recipe", "recipe_of"]

_SWIGLU = {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"}


@dataclass(frozen=True)
class Recipe:
    """How one published encoder is meant to be used.

    Parameters
    ----------
    mpp : float or None
        Micrometres per pixel that it was trained at.
    tokens : str or None
        What its vector is made of, see `histograph.features.tokens`; None leaves it to the model.
    arguments : mapping
        Further arguments of ``timm.create_model``; a layer goes by its name in ``timm.layers`` or ``torch.nn``.

    Examples
    --------
    >>> recipe_of("paige-ai/Virchow2").tokens
    'cls+mean'
    """

    mpp: float | None = None
    tokens: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


#: Recipes by repository, in lower case.
RECIPES: dict[str, Recipe] = {
    "owkin/phikon": Recipe(0.5, "cls"),
    "owkin/phikon-v2": Recipe(0.5, "cls"),
    "mahmoodlab/uni": Recipe(0.5, None, {"init_values": 1e-5, "dynamic_img_size": True}),
    "mahmoodlab/uni2-h": Recipe(
        0.5,
        None,
        {
            "img_size": 224,
            "patch_size": 14,
            "depth": 24,
            "num_heads": 24,
            "init_values": 1e-5,
            "embed_dim": 1536,
            "mlp_ratio": 2.66667 * 2,
            "no_embed_class": True,
            "reg_tokens": 8,
            "dynamic_img_size": True,
            **_SWIGLU,
        },
    ),
    "paige-ai/virchow": Recipe(0.5, "cls+mean", _SWIGLU),
    "paige-ai/virchow2": Recipe(0.5, "cls+mean", _SWIGLU),
    "bioptimus/h-optimus-0": Recipe(0.5, None, {"init_values": 1e-5, "dynamic_img_size": False}),
    "bioptimus/h-optimus-1": Recipe(0.5, None, {"init_values": 1e-5, "dynamic_img_size": False}),
    "bioptimus/h0-mini": Recipe(0.5, "cls", _SWIGLU),
    "prov-gigapath/prov-gigapath": Recipe(0.5),
}


def recipe_of(repository: str) -> Recipe:
    """Find the recipe of a model, by its repository or by the name of a folder that it was copied to.

    Parameters
    ----------
    repository : str
        ``org/name``, or a path whose last part is the name, such as ``models/UNI2-h``.

    Returns
    -------
    Recipe
        An empty one for a model that is not listed.

    Examples
    --------
    >>> recipe_of("/models/phikon").mpp, recipe_of("org/other").mpp
    (0.5, None)
    """
    wanted = repository.lower().rstrip("/\\")
    if wanted in RECIPES:
        return RECIPES[wanted]
    last = wanted.replace("\\", "/").rsplit("/", 1)[-1]
    copied = wanted.startswith((".", "/", "~")) or wanted.count("/") != 1
    if copied:
        for name, recipe in RECIPES.items():
            if name.rsplit("/", 1)[1] == last:
                return recipe
    return Recipe()
