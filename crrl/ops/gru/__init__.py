"""The GRU layer: `operators` has the functions to call, `layer` the torch operators; the other modules compute it."""
