"""What a compression is asked to do: frozen dataclasses that round-trip through TOML."""

from flyweight.recipes.digest import recipe_digest
from flyweight.recipes.recipe import PruningRecipe, Recipe, SharingRecipe, load_recipe

__all__ = ["PruningRecipe", "Recipe", "SharingRecipe", "load_recipe", "recipe_digest"]
