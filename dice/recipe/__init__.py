"""What a run shall do: the recipe's keys with their bounds, and how a recipe is read."""
