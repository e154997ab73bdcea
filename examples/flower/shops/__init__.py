"""Ten shops train one model, as a Flower app."""
