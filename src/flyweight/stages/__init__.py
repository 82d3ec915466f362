"""The lossy stages of a compression: prune and retrain, share and tune, finish."""

from flyweight.stages.finishing import check_model, finish
from flyweight.stages.pruning import Pruning, prune_
from flyweight.stages.sharing import share_

__all__ = ["Pruning", "check_model", "finish", "prune_", "share_"]
