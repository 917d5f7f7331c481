"""Token ids in; samples, log-probs and rewards of tokens out."""
