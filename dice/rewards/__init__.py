"""Where rewards come from: one module per source, all with one contract."""
