"""Every wandb release in one matrix, and a change to wandb proven before it is sent."""
