"""Callbacks that prune and quantize in the training loops of other libraries.

- `flyweight.integrations.transformers_callback`: Hugging Face `transformers.Trainer`
  (``pip install 'flyweight[transformers]'``).
- `flyweight.integrations.lightning_callback`: Lightning (``pip install 'flyweight[lightning]'``).

Each module imports its library, so import the one that you use. Both have the same classes:

    pruner = flyweight.Pruner(model, flyweight.PruningConfig(sparsity=0.8), steps=steps)
    trainer = Trainer(pruner.model, ..., callbacks=[PruningCallback(pruner)])
    trainer.train()
    pruned = pruner.finalize()
"""

__all__: list[str] = []
