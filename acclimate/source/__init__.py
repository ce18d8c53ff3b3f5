"""Source training, before deployment: the training loop and the stages that make a bundle."""
