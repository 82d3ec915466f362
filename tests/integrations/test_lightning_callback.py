"""Pruning and quantization callbacks in a real Lightning `Trainer`."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from flyweight.errors import ModelError
from flyweight.pruning import Pruner, PruningConfig
from flyweight.quantization import QuantizationConfig, Quantizer

lightning = pytest.importorskip("pytorch_lightning")
from flyweight.integrations.lightning_callback import (  # noqa: E402
    PruningCallback,
    QuantizationCallback,
)

# Warnings that Lightning itself causes.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]
EPOCHS, BATCHES = 3, 4
STEPS = EPOCHS * BATCHES
PRUNING = PruningConfig(sparsity=0.7, interval=2, scope="layer")
QUANTIZATION = QuantizationConfig(method="learned-step", bits=3)


class Parity(lightning.LightningModule):
    """Classifier of the parity of eight bits."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 0.01)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))


def loader():
    bits = torch.randint(0, 2, (64, 8), generator=torch.Generator().manual_seed(0)).float()
    data = torch.utils.data.TensorDataset(bits, bits.sum(1).long() % 2)
    return torch.utils.data.DataLoader(data, batch_size=64 // BATCHES)


def trainer(folder, callback, **settings):
    return lightning.Trainer(
        **{
            "max_epochs": EPOCHS,
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": str(folder),
            "callbacks": [callback],
        }
        | settings
    )


def test_pruning_callback_prunes_to_asked_sparsity(tmp_path):
    pruner = Pruner(network(), PRUNING, steps=STEPS)
    trainer(tmp_path, PruningCallback(pruner)).fit(Parity(pruner.model), loader())
    assert pruner.number == STEPS
    pruned = pruner.finalize()
    zeros = sum(int((pruned[i].weight == 0).sum()) for i in (0, 2))
    assert zeros == round(0.7 * (8 * 32 + 32 * 2))


def test_pruning_callback_advances_once_per_accumulated_step(tmp_path):
    pruner = Pruner(network(), PRUNING, steps=STEPS // 2)
    run = trainer(tmp_path, PruningCallback(pruner), accumulate_grad_batches=2)
    run.fit(Parity(pruner.model), loader())
    assert pruner.number == STEPS // 2


def test_pruning_callback_resumes_to_same_weights(tmp_path):
    whole = Pruner(network(), PRUNING, steps=STEPS)
    trainer(tmp_path, PruningCallback(whole)).fit(Parity(whole.model), loader())

    begun = Pruner(network(), PRUNING, steps=STEPS)
    run = trainer(tmp_path, PruningCallback(begun), max_epochs=2)
    run.fit(Parity(begun.model), loader())
    run.save_checkpoint(tmp_path / "state.ckpt")
    resumed = Pruner(network(), PRUNING, steps=STEPS)
    trainer(tmp_path, PruningCallback(resumed)).fit(
        Parity(resumed.model), loader(), ckpt_path=tmp_path / "state.ckpt"
    )
    assert resumed.number == STEPS
    expected = whole.finalize().state_dict()
    for name, value in resumed.finalize().state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_pruning_callback_refuses_another_model(tmp_path):
    model = network()
    pruner = Pruner(model, PRUNING, steps=STEPS)
    with pytest.raises(ModelError, match=r"another model than pruner\.model; pass pruner\.model"):
        trainer(tmp_path, PruningCallback(pruner)).fit(Parity(model), loader())


def test_quantization_callback_quantizes(tmp_path):
    quantizer = Quantizer(network(), QUANTIZATION, steps=STEPS)
    trainer(tmp_path, QuantizationCallback(quantizer)).fit(Parity(quantizer.model), loader())
    assert quantizer.number == STEPS
    assert 2 <= quantizer.finalize().state_dict()["0.weight"].unique().numel() <= 2**3


def test_import_without_lightning_names_the_extra():
    program = (
        "import sys\n"
        "sys.modules['pytorch_lightning'] = sys.modules['lightning'] = None\n"
        "import flyweight.integrations\n"
        "try:\n    import flyweight.integrations.lightning_callback\n"
        "except ImportError as error:\n    print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout == (
        "flyweight.integrations.lightning_callback needs Lightning; install it by "
        "pip install 'flyweight[lightning]'\n"
    )


def test_quantization_callback_adds_the_bits_to_the_loss(tmp_path):
    class BySgd(Parity):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.05)

    sizes = []
    for loss_per_bit in (1e-9, 0.1):
        config = QuantizationConfig(method="rate", loss_per_bit=loss_per_bit)
        quantizer = Quantizer(network(), config, steps=STEPS)
        trainer(tmp_path, QuantizationCallback(quantizer)).fit(BySgd(quantizer.model), loader())
        sizes.append(len(quantizer.finalize().to_bytes()))
    assert sizes[1] < 0.9 * sizes[0]
