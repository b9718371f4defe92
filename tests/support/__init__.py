"""What several tests share: users, registries, images."""
