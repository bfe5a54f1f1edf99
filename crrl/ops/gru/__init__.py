"""The GRU layer: `operators` has what is called, `layer` what torch knows of it, the others compute it."""
