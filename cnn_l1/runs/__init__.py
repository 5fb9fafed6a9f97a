"""A run's folder: files, manifest, report, pictures, verification."""
