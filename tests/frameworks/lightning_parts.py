"""A Lightning module that holds a parcel, as users' modules hold a config or a run."""

import carried
import lightning.pytorch as pl
import torch


class Module(pl.LightningModule):
    def __init__(self, parcel):
        super().__init__()
        self.parcel = parcel
        self.layer = torch.nn.Linear(2, 1)

    def on_train_start(self):
        carried.use(self.parcel)

    def training_step(self, batch, _):
        return torch.nn.functional.mse_loss(self.layer(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)
