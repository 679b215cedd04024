"""Laws of whole learning curves: the loss at a step given the learning rates until then."""
