"""From a config to plain Keras layers; reading the models of users."""
