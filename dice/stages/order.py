"""The stages of a round, in their order."""

from dice.stages import generate, pair, score, train

STAGES = (generate.STAGE, score.STAGE, pair.STAGE, train.STAGE)
