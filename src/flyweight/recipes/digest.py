"""What tells the recipe of one stage from another."""

from __future__ import annotations

import dataclasses
import hashlib

from flyweight.recipes.recipe import PruningRecipe, SharingRecipe

__all__ = ["recipe_digest"]


def recipe_digest(recipe: PruningRecipe | SharingRecipe) -> str:
    """16 hexadecimal digits that tell a recipe from others; how it trains is left out.

    Example:
        >>> recipe_digest(SharingRecipe(bits=2)) == recipe_digest(SharingRecipe(bits=4))
        False
    """
    recipe = dataclasses.replace(recipe, training=type(recipe).training)
    return hashlib.sha256(repr(recipe).encode()).hexdigest()[:16]
