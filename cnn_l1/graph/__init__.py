"""What a Keras model computes: its graph, rules by layer kind, coupled channels, multiply-adds."""
