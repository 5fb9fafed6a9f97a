"""Every setting, its default and its rule; reading config files and refusing bad ones."""
