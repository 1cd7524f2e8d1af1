"""Pure pieces of networks: modules in, modules or tensors out."""
