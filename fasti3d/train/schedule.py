"""The learning rate of each step."""

from __future__ import annotations

from fasti3d.train.settings import Recipe

WARMUP = 0.05
DROPS = (0.7, 0.9)
FACTOR = 0.1


def learning_rate(step: int, recipe: Recipe) -> float:
    """Return the learning rate of a step, counted from 0.

    It rises linearly over the first 5 % of the steps, and falls to a tenth at 70 % and 90 %.

    Example:
        >>> from fasti3d.train.settings import TrainingSettings, recipe
        >>> made = recipe(TrainingSettings(lr=1.0, steps=100), videos=9, processes=1, on_gpu=False,
        ...               from_kinetics=True)
        >>> [round(learning_rate(step, made), 3) for step in (0, 4, 69, 70, 90)]
        [0.2, 1.0, 1.0, 0.1, 0.01]
    """
    warmup = round(WARMUP * recipe.steps)
    if step < warmup:
        return recipe.lr * (step + 1) / warmup
    return recipe.lr * FACTOR ** sum(step >= round(part * recipe.steps) for part in DROPS)
