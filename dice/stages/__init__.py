"""The stages of the loop, one module each, and what is done before the first of them."""
